// SPDX-License-Identifier: Apache-2.0
//
// The daemon's state as gauges: computed from a sample at each scrape, so that nothing has to be
// kept up to date in between and a closed cache leaves no series behind.
//
//   attnd_pages{cache,state="used|cached|free|reserved"}  pages of the cache's slabs; the states
//   add up attnd_pool_bytes{device="0",use="slabs|free"}  adds up to the pools
//   attnd_pool_fragmentation_ratio                 free bytes outside the largest free runs, 0 to 1
//   attnd_devices{state="ok|failed"}               adds up to the devices
//   attnd_sessions, attnd_sequences, attnd_queue_items, attnd_queue_tokens, attnd_launched_items
//   attnd_staging_bytes                            tensors between socket and kernel
//   attnd_pages_copied_total, attnd_slabs_moved_total   counters that the cache keeps
//   attnd_prefix_tokens_queried_total, attnd_prefix_tokens_matched_total,
//   attnd_prefix_pages_evicted_total                    likewise
//   process_resident_memory_bytes, process_cpu_seconds_total
//
// Pure but for the process's own numbers; safe from any thread.
//
//   std::vector<prometheus::MetricFamily> families = CollectGauges(sample);
#pragma once

#include <cstdint>
#include <vector>

#include "kv_cache/kv_cache.h"

namespace prometheus {
struct MetricFamily;
}

namespace attnd {

// A look at the daemon's state, taken at each scrape.
struct GaugeSample {
  KvCacheStats cache;
  int64_t queued_items = 0;
  int64_t queued_tokens = 0;
  int64_t launched_items = 0;
  uint64_t staging_bytes_in_use = 0;
};

std::vector<prometheus::MetricFamily> CollectGauges(const GaugeSample& sample);
// Of this process alone, for a daemon that has no sampler yet.
std::vector<prometheus::MetricFamily> CollectProcess();

}  // namespace attnd
