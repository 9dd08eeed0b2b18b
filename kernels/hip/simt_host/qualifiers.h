// SPDX-License-Identifier: Apache-2.0
//
// The language extensions of HIP that kernel sources are written with, for a C++ compiler: a kernel
// is a plain function here.
#pragma once

// NOLINTBEGIN(bugprone-reserved-identifier): HIP's names
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// NOLINTEND(bugprone-reserved-identifier)
