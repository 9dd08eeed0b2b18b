// SPDX-License-Identifier: Apache-2.0
//
// The transcendental functions of attention, vectorised, with bounds that the unit tests check.
// A NaN argument gives NaN. Included once per Highway target.
//
//   const auto p = Exp2(d, hn::Sub(x, row_max));
#if defined(ATTND_KERNELS_CPU_VEC_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_VEC_MATH_INL_H_
#undef ATTND_KERNELS_CPU_VEC_MATH_INL_H_
#else
#define ATTND_KERNELS_CPU_VEC_MATH_INL_H_
#endif

#include "hwy/highway.h"
#include "kernels/cpu/avx512.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The larger of `bound` and x; NaN where x is NaN. On x86 the order of the operands decides that:
// maxps returns its second operand. Highway's maximum of AArch64 is fmaxnm, which prefers a number
// to a NaN whatever the order; fmax does not.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V AtLeast(D, V bound, V x) {
#if HWY_ARCH_ARM_A64
  return V(vmaxq_f32(bound.raw, x.raw));
#else
  return hn::Max(bound, x);
#endif
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V AtMost(D, V bound, V x) {
#if HWY_ARCH_ARM_A64
  return V(vminq_f32(bound.raw, x.raw));
#else
  return hn::Min(bound, x);
#endif
}

// 2^x for x <= 127: relative error below 1.5e-7, exactly 1 at 0, and 0 below -126.5. x = n + f with
// n the nearest integer; 2^f is a minimax polynomial of degree 6 on [-1/2, 1/2] whose own error is
// 2.6e-9, 2^n is made of exponent bits.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2(D d, V x) {
  const hn::RebindToUnsigned<D> du;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits; the 127 beside it is
  // the exponent's bias. -127 gives exponent bits of zero: the number 0.
  const V magic = hn::Set(d, 12582912.0f + 127.0f);
  x = AtLeast(d, hn::Set(d, -127.0f), x);
  const V shifted = hn::Add(x, magic);
  const V f = hn::Sub(x, hn::Sub(shifted, magic));
  V p = hn::Set(d, 1.55946770e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.34066438e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.61769297e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55031055e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40226528e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93147215e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  // A product, not an addition of exponents: whatever bits a NaN leaves here, NaN comes out.
  return hn::Mul(p, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted))));
}

// 2^(y - kExp2Bias), with the bounds of Exp2: the fastest way where y is a difference anyway, and
// the bias can go into it.
#if ATTND_TARGET_AVX512
inline constexpr float kExp2Bias = 0.5f;

// y = n + f with n the floor; 2^(f - 1/2) is a minimax polynomial of degree 5 on [0, 1] whose own
// error is 7.5e-8. AVX-512, but not Highway, has an instruction for each step around it.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V BiasedExp2(D d, V y) {
  const V f{_mm512_reduce_ps(y.raw, _MM_FROUND_TO_NEG_INF)};
  V p = hn::Set(d, 1.32764806e-3f);
  p = hn::MulAdd(p, f, hn::Set(d, 6.3564037e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 3.94751877e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.69814259e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 4.90133256e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 7.07106709e-1f));
  // Not less, rather than greater or equal: NaN goes through.
  const __mmask16 normal =
      _mm512_cmp_ps_mask(y.raw, hn::Set(d, -126.0f + kExp2Bias).raw, _CMP_NLT_UQ);
  return V{_mm512_maskz_scalef_ps(normal, p.raw, y.raw)};  // p * 2^floor(y)
}
#else
inline constexpr float kExp2Bias = 0.0f;

template <class D, class V = hn::Vec<D>>
HWY_INLINE V BiasedExp2(D d, V y) {
  return Exp2(d, y);
}
#endif

// tanh(x): relative error below 4e-7, small arguments included, so that a soft cap costs no
// accuracy where scores are small. +-1 at +-infinity.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V magnitude = hn::Abs(x);
  // Below 0.6: x + x^3 P(x^2), minimax, its own error 2.8e-9.
  const V z = hn::Mul(x, x);
  V p = hn::Set(d, -5.89515918e-3f);
  p = hn::MulAdd(p, z, hn::Set(d, 2.07959727e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, -5.37838306e-2f));
  p = hn::MulAdd(p, z, hn::Set(d, 1.33319241e-1f));
  p = hn::MulAdd(p, z, hn::Set(d, -3.33332980e-1f));
  const V small = hn::MulAdd(hn::Mul(p, z), x, x);
  // From there on 1 - 2 / (e^(2|x|) + 1), which loses nothing any more; 1 beyond 10.
  const V bounded = AtMost(d, hn::Set(d, 10.0f), magnitude);
  const V e = Exp2(d, hn::Mul(bounded, hn::Set(d, 2.88539008f)));
  const V large = hn::Sub(one, hn::Div(hn::Set(d, 2.0f), hn::Add(e, one)));
  return hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0.6f)), small, hn::CopySign(large, x));
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
