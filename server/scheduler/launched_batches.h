// SPDX-License-Identifier: Apache-2.0
//
// Batches from their pins to the end of their launch: page leases, launch parameters, event.
//
// Holds a bounded number in flight on each device and reuses their memory. Knows neither the
// queue's order nor what becomes of a finished item; see scheduler_loop.h. One thread, the
// scheduler's.
//
//   LaunchedBatch& batch = batches.New(device, now);
//   absl::Status pinned = batches.Pin(batch, node);   // an item that fails is not part of the
//   batch absl::StatusOr<bool> done = batches.Launch(batch);
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"
#include "server/engine/engine.h"
#include "server/observe/metrics.h"
#include "server/scheduler/request_queue.h"

namespace attnd {

struct LaunchedBatch {
  uint64_t number = 0;
  DeviceIndex device;
  MonotonicTime launched;
  std::vector<QueueNode*> nodes;
  std::vector<PageLease> leases;  // one per node, an empty one for a dense item
  std::vector<LaunchItem> items;  // one per node
  std::unique_ptr<Event> event;

  // Writes what the leases know into the items' outcomes.
  void FillOutcomes() const;
  LaunchRecord Record() const;
  // Which tenants' its query tokens are.
  void RecordTenants(Metrics& metrics) const;
};

class LaunchedBatches {
 public:
  // One engine for each device.
  LaunchedBatches(KvCache& cache, std::span<Engine* const> engines, int64_t max_in_flight);

  int64_t num_in_flight(DeviceIndex device) const { return num_in_flight_[device.value()]; }
  bool full(DeviceIndex device) const { return num_in_flight(device) >= max_in_flight_; }
  const std::vector<std::unique_ptr<LaunchedBatch>>& in_flight() const { return in_flight_; }

  LaunchedBatch& New(DeviceIndex device, MonotonicTime now);
  absl::Status Pin(LaunchedBatch& batch, QueueNode& node);
  // OK with the batch's event set. An error means that the device is lost.
  absl::Status Launch(LaunchedBatch& batch);
  LaunchedBatch& Find(uint64_t number);
  // Takes a batch out of flight, by now without leases and event.
  void Recycle(LaunchedBatch& batch);

 private:
  KvCache& cache_;
  const std::vector<Engine*> engines_;  // by DeviceIndex
  std::vector<int64_t> num_in_flight_;  // by DeviceIndex
  const int64_t max_in_flight_;
  uint64_t next_number_ = 0;
  std::vector<std::unique_ptr<LaunchedBatch>> in_flight_;  // oldest first
  std::vector<std::unique_ptr<LaunchedBatch>> free_;
};

}  // namespace attnd
