// SPDX-License-Identifier: Apache-2.0
//
// Vectors of fp32 from and to stored elements. The rounding is that of kernels/base/dtype.h, bit
// for bit but for the payload of a NaN. Included once per Highway target.
//
//   const auto k = LoadFloats(d, half_row + i);              // Lanes(d) elements
//   StoreFloats(d, v, bf16_row + i);
//   LoadFloatsPart(d, row + i, n), StoreFloatsPart(d, v, row + i, n)   // the first n, no byte more
#if defined(ATTND_KERNELS_CPU_CONVERT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_CONVERT_INL_H_
#undef ATTND_KERNELS_CPU_CONVERT_INL_H_
#else
#define ATTND_KERNELS_CPU_CONVERT_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/element.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, whatever the machine has: the buffers of a kernel are padded to that.
using FloatTag = hn::CappedTag<float, 16>;
using FloatVec = hn::Vec<FloatTag>;
HWY_INLINE HWY_ATTR int64_t FloatLanes() { return static_cast<int64_t>(hn::Lanes(FloatTag())); }

HWY_INLINE HWY_ATTR FloatVec LoadFloats(FloatTag d, const float* p) { return hn::LoadU(d, p); }

HWY_INLINE HWY_ATTR FloatVec LoadFloats(FloatTag d, const Half* p) {
#if HWY_TARGET == HWY_SSE4
  // Highway's own promotion, without F16C, takes infinity for 65536. Here: the exponent moves into
  // place and a product with 2^112 corrects its bias, also for subnormals.
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(d32, 0x7fffu)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(d32, 0x8000u)));
  const FloatVec finite = hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f));
  const auto special = hn::BitCast(d, hn::Or(magnitude, hn::Set(d32, 0x7f800000u)));
  const auto is_finite = hn::Lt(finite, hn::Set(d, 65536.0f));
  return hn::Or(hn::IfThenElse(is_finite, finite, special), hn::BitCast(d, sign));
#else
  const hn::Rebind<hwy::float16_t, FloatTag> dh;
  return hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(p)));
#endif
}

HWY_INLINE HWY_ATTR FloatVec LoadFloats(FloatTag d, const BFloat16* p) {
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

HWY_INLINE HWY_ATTR void StoreFloats(FloatTag d, FloatVec v, float* p) { hn::StoreU(v, d, p); }

// Stores the low 16 bits of each lane, which hold all that there is.
template <class V32>
HWY_INLINE HWY_ATTR void StoreLow16(V32 bits, uint16_t* p) {
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::RebindToSigned<FloatTag> di;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bits)), d16, p);
}

// FloatToHalf of dtype.h, step by step.
HWY_INLINE HWY_ATTR void StoreFloats(FloatTag d, FloatVec v, Half* p) {
  const hn::RebindToUnsigned<FloatTag> du;
  const auto bits = hn::BitCast(du, v);
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffffffu));
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
  const auto normal =
      hn::ShiftRight<13>(hn::Add(hn::Sub(magnitude, hn::Set(du, 0x38000000u - 0xfffu)), odd));
  const auto aligned = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f));
  const auto subnormal = hn::Sub(hn::BitCast(du, aligned), hn::Set(du, 0x3f000000u));
  // Magnitudes have no sign bit: comparing them as signed integers is exact.
  const hn::RebindToSigned<FloatTag> di;
  const auto above = [&](uint32_t bound) HWY_ATTR {
    return hn::RebindMask(
        du, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, static_cast<int32_t>(bound))));
  };
  auto half = hn::IfThenElse(above(0x387fffffu), normal, subnormal);
  half = hn::IfThenElse(above(0x477fefffu), hn::Set(du, 0x7c00u), half);
  half = hn::IfThenElse(above(0x7f800000u), hn::Set(du, 0x7e00u), half);
  StoreLow16(hn::Or(sign, half), reinterpret_cast<uint16_t*>(p));
}

// FloatToBFloat16 of dtype.h.
HWY_INLINE HWY_ATTR void StoreFloats(FloatTag, FloatVec v, BFloat16* p) {
  const hn::RebindToUnsigned<FloatTag> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40u));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(v));
  StoreLow16(hn::IfThenElse(is_nan, quiet, rounded), reinterpret_cast<uint16_t*>(p));
}

// The first n < Lanes(d) elements, zeros behind them; reads no byte past them.
template <class T>
HWY_INLINE HWY_ATTR FloatVec LoadFloatsPart(FloatTag d, const T* p, int64_t n) {
  T buffer[16] = {};
  std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  return LoadFloats(d, buffer);
}

template <class T>
HWY_INLINE HWY_ATTR void StoreFloatsPart(FloatTag d, FloatVec v, T* p, int64_t n) {
  T buffer[16];
  StoreFloats(d, v, buffer);
  std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
}

// `n` elements of any two types, by way of fp32. The ranges do not overlap.
template <class From, class To>
HWY_INLINE HWY_ATTR void ConvertRow(const From* from, To* to, int64_t n) {
  const FloatTag d;
  const int64_t lanes = FloatLanes();
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreFloats(d, LoadFloats(d, from + i), to + i);
  if (i < n) StoreFloatsPart(d, LoadFloatsPart(d, from + i, n - i), to + i, n - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
