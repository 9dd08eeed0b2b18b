// SPDX-License-Identifier: Apache-2.0
//
// What the gRPC services share: the parts of the daemon that they call. Borrowed; see server.h for
// the order of destruction. Thread-safe as its parts are.
//
//   AttentionService attention(context);
#pragma once

#include <functional>
#include <span>
#include <string>

#include "kernels/backend/attention_backend.h"
#include "kernels/backend/plugin.h"
#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"
#include "server/admission/admission.h"
#include "server/engine/staging.h"
#include "server/observe/metrics.h"
#include "server/rpc/validate.h"
#include "server/scheduler/scheduler.h"
#include "server/security/tenant_registry.h"

namespace attnd {

struct ServiceContext {
  KvCache& cache;
  Admission& admission;
  Scheduler& scheduler;
  const AttentionBackend& backend;  // any device's: all are of one kind
  std::span<const PlatformDevice> devices;
  Staging& staging;
  Metrics& metrics;
  const TenantRegistry& tenants;
  const Clock& clock;

  RequestLimits limits;
  std::string version;
  MonotonicTime started;
  Duration drain_timeout{};
  std::function<void()> start_draining;  // refuses new work from then on; idempotent
};

}  // namespace attnd
