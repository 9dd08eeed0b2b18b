// SPDX-License-Identifier: Apache-2.0
//
// Whether the Highway target that is being compiled has AVX-512: whichever of its targets that is,
// later versions of Highway have more of them.
//
//   #if ATTND_TARGET_AVX512
#pragma once

#include "hwy/highway.h"

#define ATTND_TARGET_AVX512 (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3)
