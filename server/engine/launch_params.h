// SPDX-License-Identifier: Apache-2.0
//
// From a work item and its page lease to what a kernel reads: the one place that knows how a page
// is laid out for a kernel.
//
// Pure functions, safe from any thread. The result points into the item and the lease, which
// outlive its use.
//
//   AttentionItem params = MakeAttentionItem(work, &lease);
//   if (!HasWork(params)) continue;   // a repeated write without queries
#pragma once

#include "kernels/attention/params.h"
#include "kv_cache/page_lease.h"
#include "server/engine/work_item.h"

namespace attnd {

// `lease` is null exactly where the item is dense.
AttentionItem MakeAttentionItem(const WorkItem& work, const PageLease* lease);

// False for an item that neither writes nor attends: there is nothing to launch for it.
inline bool HasWork(const AttentionItem& item) {
  return item.q.data != nullptr || item.new_k.data != nullptr;
}

}  // namespace attnd
