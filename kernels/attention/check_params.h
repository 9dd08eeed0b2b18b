// SPDX-License-Identifier: Apache-2.0
//
// What every backend asks of a launch's parameters before it plans. Pure functions, safe from any
// thread.
//
//   ATTND_RETURN_IF_ERROR(CheckShapes(params));
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention/params.h"

namespace attnd {

// GPU kernels read and write the rows of operands in pieces of this size, aligned to it.
inline constexpr int64_t kOperandAlignmentBytes = 16;

// OK, or INVALID_ARGUMENT: what is wrong with the head counts or with an item's lengths.
absl::Status CheckShapes(const AttentionParams& params);

}  // namespace attnd
