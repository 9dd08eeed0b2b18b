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
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention/params.h"
#include "kernels/base/units.h"

namespace attnd {

// Device memory, returned to its device when the Buffer goes. Move-only.
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
  std::string name;  // "cpu: 2 threads, AVX3_SPR"
  Bytes total_memory;
  bool host_memory = false;  // kernels read host memory directly: no staging copies
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  // Zeroed memory aligned to 2 MiB. RESOURCE_EXHAUSTED says how much was asked and how much is
  // free.
  virtual absl::StatusOr<Buffer> Allocate(Bytes size) = 0;
  virtual absl::StatusOr<std::unique_ptr<Stream>> NewStream() = 0;
};

}  // namespace attnd
