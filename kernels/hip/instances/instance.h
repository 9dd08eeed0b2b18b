// SPDX-License-Identifier: Apache-2.0
//
// Which target the instances of this file are for: the device's own, or the simulated core that
// ATTND_SIMT_CORE numbers.
#pragma once

#include "kernels/hip/target.h"

namespace attnd::gpu {

#if ATTND_GPU_SIMT
inline constexpr int kTable = ATTND_SIMT_CORE;
using InstanceTarget = Target<static_cast<Core>(ATTND_SIMT_CORE)>;
#else
inline constexpr int kTable = 0;
using InstanceTarget = Target;
#endif

}  // namespace attnd::gpu
