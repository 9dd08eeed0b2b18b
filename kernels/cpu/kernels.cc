// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/kernels.h"

// Highway compiles this file once for each target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/amx-inl.h"
#include "kernels/cpu/append-inl.h"
#include "kernels/cpu/bf16-inl.h"
#include "kernels/cpu/decode-inl.h"
#include "kernels/cpu/finish-inl.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnd {
namespace HWY_NAMESPACE {

void Merge(const MergeArgs& args) { MergeSplits(args); }
void AppendAll(const AppendArgs& args) { Append(args); }

#if ATTND_TARGET_AVX512
template <class Query>
constexpr std::array<CpuKernels::Attend, kNumDTypes> AmxKernels() {
  return {AttendTile<TileMath<Query, float>>, AttendTile<TileMath<Query, Half>>,
          AttendTile<TileMath<Query, BFloat16>>};
}
#endif

// Arrays are in the order of DType.
const CpuKernels* Kernels() {
  static constexpr CpuKernels kKernels = {
    .isa = nullptr,
    .attend_tile = {AttendTile<FloatMath<float>>, AttendTile<FloatMath<Half>>,
                    AttendTile<FloatMath<BFloat16>>},
#if ATTND_TARGET_AVX512
    .attend_tile_dot = AttendTile<DotMath>,
    .attend_tile_amx = {AmxKernels<float>(), AmxKernels<Half>(), AmxKernels<BFloat16>()},
#else
    .attend_tile_dot = nullptr,
    .attend_tile_amx = {},
#endif
    .attend_decode = {AttendDecode<float>, AttendDecode<Half>, AttendDecode<BFloat16>},
    .merge = Merge,
    .append = AppendAll,
  };
  static const CpuKernels named = [] {
    CpuKernels kernels = kKernels;
    kernels.isa = hwy::TargetName(HWY_TARGET);
    return kernels;
  }();
  return &named;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnd {

HWY_EXPORT(Kernels);

const CpuKernels& DispatchedKernels() { return *HWY_DYNAMIC_DISPATCH(Kernels)(); }

}  // namespace attnd
#endif  // HWY_ONCE
