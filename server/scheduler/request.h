// SPDX-License-Identifier: Apache-2.0
//
// A request between admission and its answer. The scheduler owns it from Submit until it hands it
// back through `done`, which runs exactly once, on a thread of the scheduler, and must not block.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "kernels/base/clock.h"
#include "kv_cache/page_lease.h"
#include "server/engine/staging.h"
#include "server/engine/work_item.h"
#include "server/scheduler/admission_ticket.h"

namespace attnd {

struct ItemOutcome {
  absl::Status status = absl::UnknownError("not finished");
  int64_t layer_length = 0;
  bool replayed = false;
};

// The instants that cut a request's life into its stages; see attnd_stage_duration_seconds:
// stage_in [received, admitted), queue [admitted, launched), kernel [launched, done),
// stage_out [done, handed to gRPC). A request that was never launched has launched == done.
struct RequestTimes {
  MonotonicTime received, admitted, launched, done;
};

struct Request {
  std::vector<WorkItem> items;
  std::vector<PageReservation> reservations;  // one per item; empty ones for dense items and reads
  AdmissionTicket ticket;
  StagingBuffer input, output;
  MonotonicTime deadline = kNoDeadline;
  RequestTimes times;

  std::vector<ItemOutcome> outcomes;  // one per item, filled by the scheduler
  absl::AnyInvocable<void(std::unique_ptr<Request>)> done;
};

// Names a submitted request for as long as the daemon lives.
enum class RequestId : uint64_t {};

}  // namespace attnd
