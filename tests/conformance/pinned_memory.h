// SPDX-License-Identifier: Apache-2.0
//
// Pinned host memory of a device as a std::pmr resource: what a problem's tensors lie in, so that
// host and kernels see them at one address. Freed as a whole, when it goes.
//
// One thread at a time.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <new>
#include <vector>

#include "kernels/backend/device.h"

namespace attnd::conformance {

class PinnedMemory final : public std::pmr::memory_resource {
 public:
  // `device` outlives it.
  explicit PinnedMemory(Device& device) : chunks_(device), pool_(&chunks_) {}

 private:
  static constexpr size_t kAlignment = 64;  // of everything

  // Large pieces, each a Buffer.
  class Chunks final : public std::pmr::memory_resource {
   public:
    explicit Chunks(Device& device) : device_(device) {}

   private:
    void* do_allocate(size_t bytes, size_t) override {
      absl::StatusOr<Buffer> buffer = device_.AllocateHost(Bytes(bytes));
      if (!buffer.ok()) throw std::bad_alloc();
      buffers_.push_back(*std::move(buffer));
      return buffers_.back().data();
    }
    void do_deallocate(void* data, size_t, size_t) override {
      std::erase_if(buffers_, [data](const Buffer& buffer) { return buffer.data() == data; });
    }
    bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
      return this == &other;
    }

    Device& device_;
    std::vector<Buffer> buffers_;
  };

  void* do_allocate(size_t bytes, size_t) override { return pool_.allocate(bytes, kAlignment); }
  void do_deallocate(void* data, size_t bytes, size_t) override {
    pool_.deallocate(data, bytes, kAlignment);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  Chunks chunks_;
  std::pmr::unsynchronized_pool_resource pool_;
};

}  // namespace attnd::conformance
