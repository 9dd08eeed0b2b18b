// SPDX-License-Identifier: Apache-2.0
//
// How far a backend's results are from the reference's.
//
//   Error error = MeasureError(problem);
//   EXPECT_LE(error.relative_l2, Bounds::For(DType::kF16).relative_l2);
#pragma once

#include <cstdint>

#include "tests/conformance/problem.h"

namespace attnd::conformance {

struct Error {
  double relative_l2 = 0;  // of all outputs of a problem together
  double max_abs = 0;      // of one output, relative to half of it above 2
  double max_lse = 0;      // of one log-sum-exp, relative above 1
  int64_t numbers = 0;     // outputs that the first two are of
  int64_t mismatches = 0;  // NaN or infinity on one side only
};
Error MeasureError(Problem& problem);

// DESIGN.md's numbers, by the dtype of the output; max_abs for values up to 2, in proportion above.
struct Bounds {
  double relative_l2;
  double max_abs;
  double max_lse;
  static Bounds For(DType q_dtype);
};

// gtest expectations: outputs and LSE within the bounds, appended pages bit for bit, and no other
// byte of the pool touched.
void ExpectMatchesReference(Problem& problem);
void ExpectMatchesReference(Problem& problem, const Bounds& bounds);

}  // namespace attnd::conformance
