// SPDX-License-Identifier: Apache-2.0
#include "server/scheduler/launched_batches.h"

#include <algorithm>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kv_cache/check.h"

namespace attnd {

void LaunchedBatch::FillOutcomes() const {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (items[i].lease == nullptr) continue;
    ItemOutcome& outcome = nodes[i]->request->request->outcomes[nodes[i]->index];
    outcome.layer_length = leases[i].view().layer_length.value();
    outcome.replayed = leases[i].replayed();
  }
}

LaunchRecord LaunchedBatch::Record() const {
  LaunchRecord record{.items = static_cast<int64_t>(nodes.size())};
  const ActiveRequest* last = nullptr;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const WorkItem& work = *items[i].work;
    record.tokens += work.num_tokens();
    if (work.q != nullptr) record.query_tokens += work.query_len;
    if (work.access && work.access->write && !leases[i].replayed()) {
      record.tokens_written += work.query_len;
    }
    // The items of a request are neighbours: a batch is in order of admission.
    if (nodes[i]->request != last) ++record.requests;
    last = nodes[i]->request;
  }
  return record;
}

void LaunchedBatch::RecordTenants(Metrics& metrics) const {
  for (size_t i = 0; i < nodes.size(); ++i) {
    const WorkItem& work = *items[i].work;
    if (work.q == nullptr) continue;
    metrics.RecordTenantTokens(nodes[i]->request->request->tenant, work.query_len);
  }
}

LaunchedBatches::LaunchedBatches(KvCache& cache, std::span<Engine* const> engines,
                                 int64_t max_in_flight)
    : cache_(cache),
      engines_(engines.begin(), engines.end()),
      num_in_flight_(engines.size()),
      max_in_flight_(std::max<int64_t>(max_in_flight, 1)) {}

LaunchedBatch& LaunchedBatches::New(DeviceIndex device, MonotonicTime now) {
  std::unique_ptr<LaunchedBatch> batch;
  if (free_.empty()) {
    batch = std::make_unique<LaunchedBatch>();
  } else {
    batch = std::move(free_.back());
    free_.pop_back();
  }
  batch->number = next_number_++;
  batch->device = device;
  ++num_in_flight_[device.value()];
  batch->launched = now;
  in_flight_.push_back(std::move(batch));
  return *in_flight_.back();
}

absl::Status LaunchedBatches::Pin(LaunchedBatch& batch, QueueNode& node) {
  const WorkItem& work = node.request->work(node);
  PageLease lease;
  if (work.access) {
    std::vector<PageReservation>& reservations = node.request->request->reservations;
    PageReservation reservation;
    if (node.index < reservations.size()) reservation = std::move(reservations[node.index]);
    ATTND_ASSIGN_OR_RETURN(lease, cache_.Pin(*work.access, std::move(reservation)));
  }
  batch.nodes.push_back(&node);
  batch.leases.push_back(std::move(lease));
  return absl::OkStatus();
}

absl::Status LaunchedBatches::Launch(LaunchedBatch& batch) {
  for (size_t i = 0; i < batch.nodes.size(); ++i) {
    const WorkItem& work = batch.nodes[i]->request->work(*batch.nodes[i]);
    batch.items.push_back({.work = &work, .lease = work.access ? &batch.leases[i] : nullptr});
  }
  ATTND_ASSIGN_OR_RETURN(batch.event, engines_[batch.device.value()]->Launch(batch.items));
  return absl::OkStatus();
}

LaunchedBatch& LaunchedBatches::Find(uint64_t number) {
  const auto found = std::find_if(in_flight_.begin(), in_flight_.end(),
                                  [&](const auto& batch) { return batch->number == number; });
  ATTND_CHECK(found != in_flight_.end(), "completed twice");
  return **found;
}

void LaunchedBatches::Recycle(LaunchedBatch& batch) {
  const auto found = std::find_if(in_flight_.begin(), in_flight_.end(),
                                  [&](const auto& owned) { return owned.get() == &batch; });
  --num_in_flight_[batch.device.value()];
  batch.nodes.clear();
  batch.leases.clear();
  batch.items.clear();
  batch.event.reset();
  free_.push_back(std::move(*found));
  in_flight_.erase(found);
}

}  // namespace attnd
