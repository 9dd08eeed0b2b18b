// SPDX-License-Identifier: Apache-2.0
//
// NaN and infinities, where matrix cores would carry them too far: out of line, one number at a
// time, with nothing but values passed, so that the kernels around them keep their registers.
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

// `product`, or where q or k hold NaN or infinities their product.
ATTND_RARE float SpecialProduct(TypedRow q, TypedRow k, int head_dim, float query_sign,
                                float product) {
  float sum = 0.0f;
  bool special = false;
  for (int d = 0; d < head_dim; ++d) {
    const float a = LoadNumber(q.type, q.data, d) * query_sign;
    const float b = LoadNumber(k.type, k.data, d);
    special |= !IsFinite(a) || !IsFinite(b);
    sum += a * b;
  }
  return special ? sum : product;
}

// `out`, or NaN where dim `dim` of the value is not finite.
ATTND_RARE float SpecialValue(TypedRow v, int dim, int head_dim, float out) {
  if (dim >= head_dim || IsFinite(LoadNumber(v.type, v.data, dim))) return out;
  return NaN();
}

}  // namespace attnd::gpu
