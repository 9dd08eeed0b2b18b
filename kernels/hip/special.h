// SPDX-License-Identifier: Apache-2.0
//
// NaN and infinities, where matrix cores would carry them too far: one number at a time, in loops
// that are not unrolled, so that the kernels around them keep their registers. Nothing is called: a
// call would cost them more, registers and a stack.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/numbers.h"

namespace attnd::gpu {

// Numbers of one row in memory.
struct TypedRow {
  Type type;
  const std::byte* data;
};

// Whether q or k hold NaN or infinities; their product then is in `product`.
ATTND_DEVICE bool SpecialProduct(TypedRow q, TypedRow k, int head_dim, float query_sign,
                                 float& product) {
  float sum = 0.0f;
  bool special = false;
  ATTND_ROLLED
  for (int d = 0; d < head_dim; ++d) {
    const float a = LoadNumber(q.type, q.data, d) * query_sign;
    const float b = LoadNumber(k.type, k.data, d);
    special |= !IsFinite(a) || !IsFinite(b);
    sum += a * b;
  }
  product = sum;
  return special;
}

}  // namespace attnd::gpu
