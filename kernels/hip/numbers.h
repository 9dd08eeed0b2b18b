// SPDX-License-Identifier: Apache-2.0
//
// Element types on the device: eight numbers at a time, 16 bytes of a 16-bit type or 32 of fp32.
// Rounding is to nearest even, as kernels/base/dtype.h defines it.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/element.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/mma/vectors.h"
#if !ATTND_GPU_NVIDIA && ATTND_DEVICE_CODE
#include "kernels/hip/mma/amd_common.h"
#endif
#if ATTND_GPU_SIMT
#include "kernels/base/dtype.h"
#endif

namespace attnd::gpu {

inline constexpr int kChunk = 8;  // numbers that are moved together

ATTND_DEVICE int SizeOf(Type type) { return type == Type::kF32 ? 4 : 2; }

ATTND_DEVICE float NaN() { return BitsToFloat(0x7fc00000u); }
ATTND_DEVICE float MinusInfinity() { return BitsToFloat(0xff800000u); }
ATTND_DEVICE bool IsFinite(float x) { return (FloatToBits(x) & 0x7f800000u) != 0x7f800000u; }

ATTND_DEVICE float HalfToFloat(uint32_t bits) {
#if ATTND_GPU_SIMT
  return attnd::HalfToFloat(static_cast<uint16_t>(bits));
#elif ATTND_GPU_NVIDIA
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<uint16_t>(bits)));
  return x;
#else
  return static_cast<float>(__builtin_bit_cast(_Float16, static_cast<uint16_t>(bits)));
#endif
}
ATTND_DEVICE uint32_t FloatToHalf(float x) {
#if ATTND_GPU_SIMT
  return attnd::FloatToHalf(x);
#elif ATTND_GPU_NVIDIA
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  return __builtin_bit_cast(uint16_t, static_cast<_Float16>(x));
#endif
}
ATTND_DEVICE uint32_t FloatToBFloat16(float x) {
  const uint32_t bits = FloatToBits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
// Two numbers rounded to nearest; `low` in the lower half.
template <class Element>
ATTND_DEVICE uint32_t RoundPair(float low, float high) {
#if ATTND_GPU_NVIDIA
  uint32_t pair;
  if constexpr (kIsBFloat16<Element>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
#else
  if constexpr (kIsBFloat16<Element>) return FloatToBFloat16(low) | FloatToBFloat16(high) << 16;
  return FloatToHalf(low) | FloatToHalf(high) << 16;
#endif
}
ATTND_DEVICE float ToFloat(Type type, uint32_t bits) {
  return type == Type::kF16 ? HalfToFloat(bits) : BitsToFloat(bits << 16);
}

// tanh(x) to a relative error of 4e-7, without branches: rows do not wait for each other's, and the
// registers around it are not doubled by two ways through it. A polynomial near 0, where the other
// way would lose its last bits.
ATTND_DEVICE float Tanh(float x) {
  const float u = x * x;
  float near = -0x1.8f8de4p-8f;
  near = near * u + 0x1.58048ep-6f;
  near = near * u - 0x1.b9258ap-5f;
  near = near * u + 0x1.110e1cp-3f;
  near = near * u - 0x1.555552p-2f;
  near = x + x * (u * near);
  const float size = fabsf(x);
  const float far = 1.0f - 2.0f * Reciprocal(Exp2(size * 2.88539008177792681472f) + 1.0f);
  return size < 0.625f ? near : copysignf(far, x);
}

// One number of a row.
ATTND_DEVICE float LoadNumber(Type type, const std::byte* row, int i) {
  if (type == Type::kF32) return reinterpret_cast<const float*>(row)[i];
  return ToFloat(type, reinterpret_cast<const uint16_t*>(row)[i]);
}

// Eight neighbours, aligned to 16 bytes.
ATTND_DEVICE void LoadChunk(Type type, const std::byte* from, float (&to)[kChunk]) {
  if (type == Type::kF32) {
    const auto a = LoadGlobal<F32x4>(from);
    const auto b = LoadGlobal<F32x4>(from + 16);
    ATTND_UNROLL
    for (int i = 0; i < 4; ++i) {
      to[i] = a[i];
      to[4 + i] = b[i];
    }
    return;
  }
  const auto pairs = LoadGlobal<U32x4>(from);
  ATTND_UNROLL
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = ToFloat(type, pairs[i] & 0xffffu);
    to[2 * i + 1] = ToFloat(type, pairs[i] >> 16);
  }
}
ATTND_DEVICE void StoreChunk(Type type, std::byte* to, const float (&from)[kChunk]) {
  if (type == Type::kF32) {
    reinterpret_cast<F32x4*>(to)[0] = F32x4{from[0], from[1], from[2], from[3]};
    reinterpret_cast<F32x4*>(to)[1] = F32x4{from[4], from[5], from[6], from[7]};
    return;
  }
  U32x4 pairs;
  ATTND_UNROLL
  for (int i = 0; i < 4; ++i) {
    pairs[i] = type == Type::kF16 ? RoundPair<Half>(from[2 * i], from[2 * i + 1])
                                  : RoundPair<BFloat16>(from[2 * i], from[2 * i + 1]);
  }
  *reinterpret_cast<U32x4*>(to) = pairs;
}

// The 16-bit halves `high` of x and of y, side by side: x's in the lower half.
ATTND_DEVICE uint32_t InterleaveHalves(uint32_t x, uint32_t y, bool high) {
#if ATTND_GPU_NVIDIA
  return __byte_perm(x, y, high ? 0x7632 : 0x5410);
#else
  return amd::PermuteBytes(y, x, high ? 0x07060302u : 0x05040100u);
#endif
}

// Whether a pair of 16-bit numbers holds an infinity or a NaN; such numbers become 0.
template <class Element>
ATTND_DEVICE bool ClearNonFinite(uint32_t& pair) {
  constexpr uint32_t kExponent = kIsBFloat16<Element> ? 0x7f80u : 0x7c00u;
  const bool low = (pair & kExponent) == kExponent;
  const bool high = (pair >> 16 & kExponent) == kExponent;
  if (low) pair &= 0xffff0000u;
  if (high) pair &= 0x0000ffffu;
  return low || high;
}

// fp32 in three bfloat16 parts, the upper half of a word each: the highest 8 bits of the mantissa,
// and twice what is left of it, raised by 2^7 so that small numbers keep their last bits too. Part
// i counts for 2^(-7 i) of its value.
inline constexpr float kPartScale = 0x1p-7f;
ATTND_DEVICE float WithoutHighPart(float x) {
  return (x - BitsToFloat(FloatToBits(x) & 0xffff0000u)) * (1.0f / kPartScale);
}
// The high parts of a chunk in pairs; what is left stays in it.
ATTND_DEVICE U32x4 TakeHighParts(float (&chunk)[kChunk]) {
  U32x4 pairs;
  ATTND_UNROLL
  for (int i = 0; i < 4; ++i) {
    float& low = chunk[2 * i];
    float& high = chunk[2 * i + 1];
    pairs[i] = InterleaveHalves(FloatToBits(low), FloatToBits(high), true);
    low = WithoutHighPart(low);
    high = WithoutHighPart(high);
  }
  return pairs;
}
// Whether a chunk holds an infinity or a NaN; such numbers become 0.
ATTND_DEVICE bool ClearNonFinite(float (&chunk)[kChunk]) {
  bool any = false;
  ATTND_UNROLL
  for (int i = 0; i < kChunk; ++i) {
    if (IsFinite(chunk[i])) continue;
    any = true;
    chunk[i] = 0.0f;
  }
  return any;
}

}  // namespace attnd::gpu
