// SPDX-License-Identifier: Apache-2.0
//
// ROCm's HIP API for the host's sources. GCC's library writes [[__gnu__::__noinline__]], which
// ROCm's macro of that name breaks; only kernels' sources, which clang compiles, need it.
#pragma once

#pragma GCC system_header  // #include_next is an extension

#include_next <hip/hip_runtime.h>

#if !defined(__HIP__)
#undef __noinline__
#endif
