// SPDX-License-Identifier: Apache-2.0
//
// The matrix core that a kernel is compiled for, and the tile trait that goes with it.
//
// On a device the compiler's target decides, and the names of kernels say nothing of it: all images
// of a fat binary export the same symbols. On the host (simt_host) the core is a template argument.
//
// A trait speaks of a tile of 16 queries and 16 keys (or dims), never of operands A and B: each
// core puts the queries where its accumulator feeds its own next operand. AttendBlock's
// static_asserts state what it needs of one.
#pragma once

#include "kernels/hip/gpu.h"
#include "kernels/hip/tile_shape.h"
#if ATTND_DEVICE_CODE && !ATTND_GPU_NVIDIA
#include "kernels/hip/mma/mfma.h"
#include "kernels/hip/mma/wmma_gfx11.h"
#include "kernels/hip/mma/wmma_gfx12.h"
#endif
#if ATTND_GPU_NVIDIA || ATTND_GPU_SIMT
#include "kernels/hip/mma/nv_mma.h"
#endif

namespace attnd::gpu {

#if ATTND_GPU_SIMT
template <Core kSimulated>
struct Target {
  static constexpr Core kCore = kSimulated;
};
#else
struct Target {
#if ATTND_GPU_NVIDIA
  static constexpr Core kCore = Core::kNvMma;
#elif defined(__GFX11__)
  static constexpr Core kCore = Core::kWmmaGfx11;
#elif defined(__GFX12__)
  static constexpr Core kCore = Core::kWmmaGfx12;
#elif defined(__gfx950__)
  static constexpr Core kCore = Core::kMfmaGfx950;
#else
  static constexpr Core kCore = Core::kMfma;
#endif
};
#endif

#if ATTND_DEVICE_CODE
// The element that the matrix cores multiply.
template <Compute kCompute>
struct ElementOf {
  using Type = BFloat16;
};
template <>
struct ElementOf<Compute::kF16> {
  using Type = Half;
};

template <Core kCore, class Element>
struct MmaForCore;
#if ATTND_GPU_SIMT || ATTND_GPU_NVIDIA
template <class Element>
struct MmaForCore<Core::kNvMma, Element> {
  using Type = NvMma<Element>;
};
#endif
#if !ATTND_GPU_NVIDIA
template <class Element>
struct MmaForCore<Core::kWmmaGfx11, Element> {
  using Type = Gfx11Mma<Element>;
};
template <class Element>
struct MmaForCore<Core::kWmmaGfx12, Element> {
  using Type = Gfx12Mma<Element>;
};
template <class Element>
struct MmaForCore<Core::kMfma, Element> {
  using Type = CdnaMma<Element, false>;
};
template <class Element>
struct MmaForCore<Core::kMfmaGfx950, Element> {
  using Type = CdnaMma<Element, true>;
};
#endif
#endif

}  // namespace attnd::gpu
