// SPDX-License-Identifier: Apache-2.0
#include "kernels/backend/host_memory.h"

#include <new>

#include "absl/strings/str_cat.h"

namespace attnd {

absl::StatusOr<Buffer> AllocatePlainHostMemory(Bytes size) {
  constexpr std::align_val_t kAlignment{kHostMemoryAlignment};
  void* const data = ::operator new(size.value(), kAlignment, std::nothrow);
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("host memory: the system does not give ", size.value(), " bytes"));
  }
  return Buffer(
      static_cast<std::byte*>(data), size,
      [](void*, std::byte* freed, Bytes) { ::operator delete(freed, kAlignment); }, nullptr);
}

}  // namespace attnd
