// SPDX-License-Identifier: Apache-2.0
//
// A device's memory and its queues of work. Buffers, streams and events are RAII; a stream runs
// what it is given in order, an event tells when everything before it has run.
//
// Thread safety: a Device is thread-safe; a Stream belongs to one thread at a time; an Event may be
// asked from any thread.
//
//   std::unique_ptr<Device> device = MakeCpuDevice({.num_threads = 8});
//   absl::StatusOr<Buffer> pool = device->Allocate(Bytes(1 << 30));
//   std::unique_ptr<Stream> stream = *device->NewStream();
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention/params.h"
#include "kernels/base/units.h"

namespace attnd {

// Memory of a device, or of the host for it, given back when the Buffer goes. Move-only.
class Buffer {
 public:
  using Free = void (*)(void* context, std::byte* data, Bytes size);

  Buffer() = default;
  Buffer(std::byte* data, Bytes size, Free free, void* context)
      : data_(data), size_(size), free_(free), context_(context) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, Bytes(0));
      free_ = std::exchange(other.free_, nullptr);
      context_ = std::exchange(other.context_, nullptr);
    }
    return *this;
  }
  ~Buffer() { Reset(); }

  std::byte* data() const { return data_; }
  Bytes size() const { return size_; }

 private:
  void Reset() {
    if (data_ != nullptr) free_(context_, data_, size_);
    data_ = nullptr;
  }

  std::byte* data_ = nullptr;
  Bytes size_;
  Free free_ = nullptr;
  void* context_ = nullptr;
};

// Passed once all work queued before it on its stream is done.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool Done() const = 0;
  // Blocks until done. An error is the device's: it is fenced, nothing that ran can be trusted.
  virtual absl::Status Wait() = 0;
};

class Stream {
 public:
  virtual ~Stream() = default;
  // Queues the copies of whole pages (copy-on-write, swap), one 2-D copy each, in order.
  virtual absl::Status CopyPages(std::span<const PageCopy> copies) = 0;
  virtual absl::StatusOr<std::unique_ptr<Event>> Record() = 0;
};

struct DeviceInfo {
  std::string name;  // "cpu: 2 threads, AVX3_SPR", "hip:0: AMD Radeon RX 7900 XTX, gfx1100"
  Bytes total_memory;
  Bytes free_memory;         // when the device was opened
  bool host_memory = false;  // its memory is the host's: kernels read any host memory
  // Of a GPU.
  std::string arch;  // "gfx1100", "sm_90"
  int compute_units = 0;
  int wave_size = 0;        // lanes
  std::string pci_address;  // "0000:03:00.0"; empty where it is not known
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  // Zeroed memory aligned to 2 MiB. RESOURCE_EXHAUSTED says how much was asked and how much is
  // free.
  virtual absl::StatusOr<Buffer> Allocate(Bytes size) = 0;
  // Host memory that this device's kernels and those of its kind address too, aligned to 64 bytes,
  // with undefined contents; it may outlive the device. For a GPU it is pinned: slow to get, so
  // keep and reuse it. RESOURCE_EXHAUSTED says how much was asked.
  virtual absl::StatusOr<Buffer> AllocateHost(Bytes size) = 0;
  virtual absl::StatusOr<std::unique_ptr<Stream>> NewStream() = 0;
  // What is in use of total_memory now, by whomever; nothing where the device does not say.
  virtual std::optional<Bytes> UsedMemory() { return std::nullopt; }
};

}  // namespace attnd
