// SPDX-License-Identifier: Apache-2.0
//
// Which instruction set the kernels run on in this process. Thread-safe.
//
//   LOG(INFO) << "kernels for " << DispatchedIsa();   // "AVX3"
#pragma once

#include <string>

namespace attnd {

// Highway's name of the best target that was compiled in and that this CPU has.
std::string DispatchedIsa();

}  // namespace attnd
