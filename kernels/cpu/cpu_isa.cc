// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_isa.h"

#include <cstdint>

#include "hwy/targets.h"

namespace attnd {

std::string DispatchedIsa() {
  // A lower bit is a better target.
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(targets & -targets);
}

}  // namespace attnd
