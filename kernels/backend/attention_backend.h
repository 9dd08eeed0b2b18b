// SPDX-License-Identifier: Apache-2.0
//
// The one interface between the daemon and its kernels: ask, plan, launch.
//
// Plan is a pure function of the shape: it reads no tensor, touches no device, and gives the same
// splits for an item whatever else is in the batch (batch invariance). Launch queues the planned
// work on a stream. A plan object is reused from launch to launch, so that the hot path does not
// allocate. Thread safety: Supports and capabilities from any thread; Plan and Launch from one.
//
//   ATTND_RETURN_IF_ERROR(backend.Supports(params.key));
//   ATTND_RETURN_IF_ERROR(backend.Plan(params, *plan));
//   ATTND_RETURN_IF_ERROR(backend.Launch(stream, *plan, params));
#pragma once

#include <memory>
#include <span>

#include "absl/status/status.h"
#include "kernels/attention/capabilities.h"
#include "kernels/attention/params.h"
#include "kernels/backend/device.h"

namespace attnd {

// What a plan made by some backend carries; only that backend looks inside.
class LaunchPlan {
 public:
  virtual ~LaunchPlan() = default;
};

class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;

  virtual const Capabilities& capabilities() const = 0;
  // OK, or UNIMPLEMENTED naming the capability that is missing.
  virtual absl::Status Supports(const KernelKey& key) const = 0;

  virtual std::unique_ptr<LaunchPlan> NewPlan() const = 0;
  // Fills `plan` for `params`, of which only the key, head counts and each item's lengths, options
  // and presence of operands are read; no tensor is.
  virtual absl::Status Plan(const AttentionParams& params, LaunchPlan& plan) const = 0;
  // `params` must be those the plan was made for. Errors are the device's (INTERNAL) or a bug.
  virtual absl::Status Launch(Stream& stream, const LaunchPlan& plan,
                              const AttentionParams& params) = 0;
};

}  // namespace attnd
