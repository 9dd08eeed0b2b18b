// SPDX-License-Identifier: Apache-2.0
//
// Tags for the 16-bit element types that matrix cores multiply.
#pragma once

namespace attnd::gpu {

struct Half {};
struct BFloat16 {};

template <class Element>
inline constexpr bool kIsBFloat16 = false;
template <>
inline constexpr bool kIsBFloat16<BFloat16> = true;

}  // namespace attnd::gpu
