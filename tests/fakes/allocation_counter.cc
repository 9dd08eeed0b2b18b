// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/allocation_counter.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "absl/base/attributes.h"

namespace {

std::atomic<int64_t> allocations = 0;

void* Allocate(std::size_t size, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, size == 0 ? 1 : size) == 0) return memory;
  throw std::bad_alloc();
}
void* Allocate(std::size_t size) { return Allocate(size, alignof(std::max_align_t)); }
void* Allocate(std::size_t size, std::align_val_t alignment) {
  // posix_memalign knows no smaller one.
  return Allocate(size, std::max(static_cast<std::size_t>(alignment), sizeof(void*)));
}

// Out of line: inlined beside a `new`, free() is a mismatch to GCC's eyes.
ABSL_ATTRIBUTE_NOINLINE void Free(void* memory) { std::free(memory); }

}  // namespace

void* operator new(std::size_t size) { return Allocate(size); }
void* operator new[](std::size_t size) { return Allocate(size); }
void* operator new(std::size_t size, std::align_val_t align) { return Allocate(size, align); }
void* operator new[](std::size_t size, std::align_val_t align) { return Allocate(size, align); }
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete(void* memory, std::size_t) noexcept { Free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { Free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { Free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { Free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { Free(memory); }

namespace attnd {

int64_t AllocationCount() { return allocations.load(std::memory_order_relaxed); }

}  // namespace attnd
