// SPDX-License-Identifier: Apache-2.0
//
// The storage types as C++ types, so that a kernel overloads on them, and the step from a DType to
// such a type. Pure functions, safe from any thread.
//
//   DispatchElement(DType::kBF16, [&](auto element) { Scale<decltype(element)>(data); });
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"

namespace attnd {

// IEEE binary16 and bfloat16 as they lie in memory.
struct Half {
  uint16_t bits = 0;
};
struct BFloat16 {
  uint16_t bits = 0;
};

template <class F>
void DispatchElement(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kF16:
      return f(Half{});
    case DType::kBF16:
      return f(BFloat16{});
  }
}

}  // namespace attnd
