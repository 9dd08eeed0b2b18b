// SPDX-License-Identifier: Apache-2.0
//
// Loops unrolled by the compiler's front end, so that arrays of vectors become registers.
// Included once per Highway target.
//
//   V sum[4];
//   Unroll<4>([&](auto i) HWY_ATTR { sum[i] = hn::Zero(d); });
#if defined(ATTND_KERNELS_CPU_UNROLL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTND_KERNELS_CPU_UNROLL_INL_H_
#undef ATTND_KERNELS_CPU_UNROLL_INL_H_
#else
#define ATTND_KERNELS_CPU_UNROLL_INL_H_
#endif

#include <type_traits>
#include <utility>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {

template <class F, int... i>
HWY_INLINE HWY_ATTR void UnrollOver(F&& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}

// f(0), f(1), .. f(n - 1), each index a compile-time constant.
template <int n, class F>
HWY_INLINE HWY_ATTR void Unroll(F&& f) {
  UnrollOver(f, std::make_integer_sequence<int, n>{});
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#endif
