// SPDX-License-Identifier: Apache-2.0
//
// A request between admission and its answer. The scheduler owns it from Submit until it hands it
// back through `done`, which runs exactly once, on the scheduler's thread, and must not block.
// Plain data: one thread at a time.
//
//   auto request = std::make_unique<Request>();
//   request->items.push_back(item);
//   request->done = [](std::unique_ptr<Request> r) { Answer(r->outcomes[0].status); };
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
  // UNKNOWN until the item has finished (without a message: such a status allocates nothing).
  absl::Status status{absl::StatusCode::kUnknown, ""};
  int64_t layer_length = 0;
  bool replayed = false;

  bool finished() const { return status.code() != absl::StatusCode::kUnknown; }
};

// The instants that cut a request's life into its stages; see attnd_stage_duration_seconds:
// stage_in [received, admitted), queue [admitted, launched), kernel [launched, done),
// stage_out [done, handed to gRPC). Where a request's items went into several launches, `launched`
// is the first and `done` the end of the last. A request that was never launched has
// launched == done. Admission sets `admitted`, the scheduler the two after it.
struct RequestTimes {
  MonotonicTime received, admitted, launched, done;
};

struct Request {
  std::vector<WorkItem> items;
  std::vector<PageReservation> reservations;  // one per item; empty ones for dense items and reads
  TenantIndex tenant{};                       // whose queue share it takes
  AdmissionTicket ticket;
  StagingBuffer input, output;
  MonotonicTime deadline = kNoDeadline;
  RequestTimes times;

  // One per item, filled by the scheduler. An item whose outcome is finished before Submit (refused
  // by validation or admission) is not executed, and its outcome stays.
  std::vector<ItemOutcome> outcomes;
  absl::AnyInvocable<void(std::unique_ptr<Request>)> done;
};

// Names a submitted request for as long as the daemon lives.
enum class RequestId : uint64_t {};
inline constexpr RequestId kNoRequest = RequestId(0);  // never given out

}  // namespace attnd
