// SPDX-License-Identifier: Apache-2.0
//
// Runs batches on a device: groups items by kernel, builds the kernels' parameters from work items
// and page leases, plans, copies shared pages, launches.
//
// One thread, the scheduler's, uses an engine. The caller keeps items and leases alive until the
// returned event is done.
//
//   std::unique_ptr<Event> event = *engine.Launch(batch);
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend/attention_backend.h"
#include "kernels/backend/device.h"
#include "kv_cache/page_lease.h"
#include "server/engine/work_item.h"

namespace attnd {

// An item about to be launched and its pages; the lease is null for a dense item.
struct LaunchItem {
  const WorkItem* work = nullptr;
  const PageLease* lease = nullptr;
};

class Engine {
 public:
  // Borrows both; they outlive the engine.
  Engine(AttentionBackend& backend, Device& device);
  ~Engine();

  absl::Status Init();  // creates the stream

  // Queues the whole batch: page copies first, then the kernels. The batch holds at most one item
  // per (sequence, layer). On an error nothing can be said about what ran: the device is lost.
  absl::StatusOr<std::unique_ptr<Event>> Launch(std::span<const LaunchItem> batch);

  const DeviceInfo& device_info() const { return device_.info(); }

 private:
  struct Group;  // the items of one kernel and its plan, reused from batch to batch

  Group& GroupFor(const WorkItem& work);

  AttentionBackend& backend_;
  Device& device_;
  std::unique_ptr<Stream> stream_;
  std::vector<PageCopy> copies_;
  std::vector<std::unique_ptr<Group>> groups_;  // the first num_groups_ belong to this batch
  size_t num_groups_ = 0;
};

}  // namespace attnd
