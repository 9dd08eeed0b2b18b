// SPDX-License-Identifier: Apache-2.0
#include "server/observe/gauges.h"

#include <prometheus/metric_family.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

namespace attnd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(std::string name, std::string help, MetricType type) {
  MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = type;
  return family;
}

void Add(MetricFamily& family, double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (family.type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(std::move(metric));
}

MetricFamily Single(std::string name, std::string help, double value,
                    MetricType type = MetricType::Gauge) {
  MetricFamily family = Family(std::move(name), std::move(help), type);
  Add(family, value);
  return family;
}

MetricFamily Pages(const KvCacheStats& stats) {
  MetricFamily family =
      Family("attnd_pages", "Pages of each cache's slabs, by state.", MetricType::Gauge);
  for (const CacheInfo& cache : stats.caches) {
    const auto add = [&](const char* state, PageCount pages) {
      Add(family, static_cast<double>(pages.value()), {{"cache", cache.name}, {"state", state}});
    };
    add("used", cache.used);
    add("cached", cache.cached);
    add("free", cache.free - cache.reserved);  // reserved pages are free ones that are promised
    add("reserved", cache.reserved);
  }
  return family;
}

MetricFamily PoolBytes(const KvCacheStats& stats) {
  MetricFamily family =
      Family("attnd_pool_bytes", "Bytes of each device's KV pool, by use.", MetricType::Gauge);
  for (size_t i = 0; i < stats.pools.size(); ++i) {
    const PoolStats& pool = stats.pools[i];
    const std::string device = std::to_string(i);
    const double free = static_cast<double>(pool.free_bytes.value());
    Add(family, static_cast<double>(pool.bytes.value()) - free,
        {{"device", device}, {"use", "slabs"}});
    Add(family, free, {{"device", device}, {"use", "free"}});
  }
  return family;
}

MetricFamily Devices(const KvCacheStats& stats) {
  MetricFamily family = Family("attnd_devices", "Devices, by state.", MetricType::Gauge);
  const auto failed = std::count_if(stats.pools.begin(), stats.pools.end(),
                                    [](const PoolStats& pool) { return !pool.failure.empty(); });
  Add(family, static_cast<double>(stats.pools.size()) - static_cast<double>(failed),
      {{"state", "ok"}});
  Add(family, static_cast<double>(failed), {{"state", "failed"}});
  return family;
}

double Fragmentation(const KvCacheStats& stats) {
  const double free = static_cast<double>(stats.pool_free_bytes.value());
  if (free <= 0) return 0;
  double largest = 0;
  for (const PoolStats& pool : stats.pools) {
    largest += static_cast<double>(pool.largest_free_run_superblocks) *
               static_cast<double>(kSuperblockBytes.value());
  }
  return 1.0 - largest / free;
}

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return static_cast<double>(resident_pages) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

std::vector<MetricFamily> CollectGauges(const GaugeSample& sample) {
  const KvCacheStats& cache = sample.cache;
  std::vector<MetricFamily> families;
  families.push_back(Pages(cache));
  families.push_back(PoolBytes(cache));
  families.push_back(Devices(cache));
  const auto gauge = [&](const char* name, const char* help, double value) {
    families.push_back(Single(name, help, value));
  };
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    families.push_back(Single(name, help, static_cast<double>(value), MetricType::Counter));
  };
  gauge("attnd_pool_fragmentation_ratio",
        "Share of the pools' free bytes that lies outside the largest free run of each.",
        Fragmentation(cache));
  gauge("attnd_sessions", "Open sessions.", static_cast<double>(cache.num_sessions));
  gauge("attnd_sequences", "Sequences.", static_cast<double>(cache.num_sequences));
  gauge("attnd_queue_items", "Items submitted and not yet launched.",
        static_cast<double>(sample.queued_items));
  gauge("attnd_queue_tokens", "Query tokens of the items submitted and not yet launched.",
        static_cast<double>(sample.queued_tokens));
  gauge("attnd_launched_items", "Items launched and not yet done.",
        static_cast<double>(sample.launched_items));
  gauge("attnd_staging_bytes", "Bytes of staging memory that requests hold.",
        static_cast<double>(sample.staging_bytes_in_use));
  counter("attnd_pages_copied_total", "Pages copied on write.", cache.pages_copied_total);
  counter("attnd_slabs_moved_total", "Slabs given back to the pool for another cache.",
          cache.slabs_moved_total);
  counter("attnd_prefix_tokens_queried_total",
          "Prompt tokens of sequences that were created with a prefix.",
          cache.prefix_tokens_queried_total);
  counter("attnd_prefix_tokens_matched_total",
          "Of these, tokens whose keys and values were shared and not computed again.",
          cache.prefix_tokens_matched_total);
  counter("attnd_prefix_pages_evicted_total",
          "Published pages that no sequence held, evicted because pages ran out.",
          cache.prefix_pages_evicted_total);
  return families;
}

std::vector<MetricFamily> CollectProcess() {
  return {
      Single("process_resident_memory_bytes", "Resident memory of the daemon.", ResidentBytes()),
      Single("process_cpu_seconds_total", "User and system time of the daemon.", CpuSeconds(),
             MetricType::Counter)};
}

}  // namespace attnd
