// SPDX-License-Identifier: Apache-2.0
#include "server/engine/engine.h"

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "server/engine/launch_params.h"

namespace attnd {

struct Engine::Group {
  KernelKey key;
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;
  std::vector<AttentionItem> items;
  std::unique_ptr<LaunchPlan> plan;

  bool Takes(const WorkItem& work) const {
    return key == work.key && num_query_heads == work.num_query_heads &&
           num_kv_heads == work.num_kv_heads;
  }
  AttentionParams params() const {
    return {.key = key,
            .num_query_heads = num_query_heads,
            .num_kv_heads = num_kv_heads,
            .items = items};
  }
};

Engine::Engine(AttentionBackend& backend, Device& device) : backend_(backend), device_(device) {}
Engine::~Engine() = default;

absl::Status Engine::Init() {
  ATTND_ASSIGN_OR_RETURN(stream_, device_.NewStream());
  return absl::OkStatus();
}

Engine::Group& Engine::GroupFor(const WorkItem& work) {
  // Few kernels share a batch, and neighbours mostly share theirs: look at the last one first.
  for (size_t i = num_groups_; i > 0; --i) {
    if (groups_[i - 1]->Takes(work)) return *groups_[i - 1];
  }
  if (num_groups_ == groups_.size()) {
    groups_.push_back(std::make_unique<Group>());
    groups_.back()->plan = backend_.NewPlan();
  }
  Group& group = *groups_[num_groups_++];
  group.key = work.key;
  group.num_query_heads = work.num_query_heads;
  group.num_kv_heads = work.num_kv_heads;
  group.items.clear();
  return group;
}

absl::StatusOr<std::unique_ptr<Event>> Engine::Launch(std::span<const LaunchItem> batch) {
  num_groups_ = 0;
  copies_.clear();
  for (const LaunchItem& item : batch) {
    if (item.lease != nullptr) {
      const std::span<const PageCopy> copies = item.lease->copies();
      copies_.insert(copies_.end(), copies.begin(), copies.end());
    }
    const AttentionItem params = MakeAttentionItem(*item.work, item.lease);
    if (HasWork(params)) GroupFor(*item.work).items.push_back(params);
  }
  // Everything is planned before anything is queued.
  for (size_t i = 0; i < num_groups_; ++i) {
    ATTND_RETURN_IF_ERROR(backend_.Plan(groups_[i]->params(), *groups_[i]->plan));
  }
  // Copies go first: they read pages as they were before this batch. The groups may then follow in
  // any order, since no two items of a batch write what the other reads or writes: a batch holds
  // one item per (sequence, layer), layers lie apart, and pages that sequences share are only read.
  if (!copies_.empty()) ATTND_RETURN_IF_ERROR(stream_->CopyPages(copies_));
  for (size_t i = 0; i < num_groups_; ++i) {
    ATTND_RETURN_IF_ERROR(backend_.Launch(*stream_, *groups_[i]->plan, groups_[i]->params()));
  }
  return stream_->Record();
}

}  // namespace attnd
