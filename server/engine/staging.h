// SPDX-License-Identifier: Apache-2.0
//
// Aligned host memory in which tensors wait for their launch and results wait for the wire.
//
// A request's tensors are copied once, from the socket's slices into one staging buffer; kernels
// write their output into another, which gRPC sends from without copying. The memory is the
// device's, so that its kernels can address it: pinned for a GPU. Buffers are pooled by size class,
// bounded in total and for each tenant, and come back when destroyed, from any thread. Contents are
// undefined at first. Thread-safe.
//
//   Staging staging({&device}, Bytes(2 << 30));
//   absl::StatusOr<StagingBuffer> buffer = staging.Allocate(Bytes(1 << 20));
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend/device.h"
#include "kernels/backend/host_memory.h"
#include "kernels/base/units.h"
#include "kv_cache/access.h"

namespace attnd {

inline constexpr size_t kStagingAlignment = kHostMemoryAlignment;

// Move-only; gives its memory back to the pool when destroyed, and keeps the pool alive until then.
class StagingBuffer {
 public:
  class Pool;

  StagingBuffer() = default;
  StagingBuffer(std::shared_ptr<Pool> pool, Buffer memory, Bytes size, int size_class,
                TenantIndex tenant)
      : pool_(std::move(pool)),
        memory_(std::move(memory)),
        size_(size),
        size_class_(size_class),
        tenant_(tenant) {}
  StagingBuffer(StagingBuffer&& other) noexcept { *this = std::move(other); }
  StagingBuffer& operator=(StagingBuffer&& other) noexcept;
  ~StagingBuffer() { Release(); }

  std::byte* data() const { return memory_.data(); }
  Bytes size() const { return size_; }  // as asked for

 private:
  void Release();

  std::shared_ptr<Pool> pool_;
  Buffer memory_;
  Bytes size_;
  int size_class_ = 0;
  TenantIndex tenant_;
};

class Staging {
 public:
  // At most `limit` bytes are handed out at a time; some are kept for reuse. `devices`, all of one
  // kind, outlive the Staging, not the buffers; any of them gives memory for all.
  Staging(std::vector<Device*> devices, Bytes limit);
  ~Staging();

  // RESOURCE_EXHAUSTED says how much was asked, is in use and is the limit, or the tenant's. Size 0
  // gives an empty buffer.
  absl::StatusOr<StagingBuffer> Allocate(Bytes size, TenantIndex tenant = {});
  // The most that a tenant's requests may hold at a time; 0: the whole limit.
  void SetTenantLimit(TenantIndex tenant, Bytes limit);
  Bytes in_use() const;
  Bytes limit() const;

 private:
  std::shared_ptr<StagingBuffer::Pool> pool_;
};

}  // namespace attnd
