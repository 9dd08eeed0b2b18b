// SPDX-License-Identifier: Apache-2.0
#include "server/observe/gauges.h"

#include <prometheus/metric_family.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "server/observe/catalog.h"

namespace attnd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

prometheus::MetricType TypeOf(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return prometheus::MetricType::Counter;
    case MetricType::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricType::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

double ToDouble(Bytes bytes) { return static_cast<double>(bytes.value()); }

// A family of the catalogue and its series.
class Family {
 public:
  explicit Family(MetricId id) : spec_(SpecOf(id)) {
    family_.name = spec_.name;
    family_.help = spec_.help;
    family_.type = TypeOf(spec_.type);
  }

  // The labels' values in the order of the catalogue.
  void Add(double value, std::initializer_list<std::string_view> labels = {}) {
    assert(labels.size() == spec_.num_labels);
    ClientMetric metric;
    size_t i = 0;
    for (const std::string_view label : labels) {
      metric.label.push_back({std::string(spec_.label_names[i++]), std::string(label)});
    }
    if (spec_.type == MetricType::kCounter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family_.metric.push_back(std::move(metric));
  }

  MetricFamily Take() { return std::move(family_); }

 private:
  const MetricSpec& spec_;
  MetricFamily family_;
};

MetricFamily Single(MetricId id, double value) {
  Family family(id);
  family.Add(value);
  return family.Take();
}

MetricFamily Pages(const KvCacheStats& stats) {
  Family family(MetricId::kPages);
  for (const CacheInfo& cache : stats.caches) {
    const auto add = [&](const char* state, PageCount pages) {
      family.Add(static_cast<double>(pages.value()), {cache.tenant_name, cache.name, state});
    };
    add("used", cache.used);
    add("cached", cache.cached);
    add("free", cache.free - cache.reserved);  // reserved pages are free ones that are promised
    add("reserved", cache.reserved);
  }
  return family.Take();
}

MetricFamily PoolBytes(const KvCacheStats& stats) {
  Family family(MetricId::kPoolBytes);
  for (size_t i = 0; i < stats.pools.size(); ++i) {
    const PoolStats& pool = stats.pools[i];
    const std::string device = std::to_string(i);
    family.Add(ToDouble(pool.bytes) - ToDouble(pool.free_bytes), {device, "slabs"});
    family.Add(ToDouble(pool.free_bytes), {device, "free"});
  }
  return family.Take();
}

MetricFamily Devices(const KvCacheStats& stats) {
  Family family(MetricId::kDevices);
  const auto failed = std::count_if(stats.pools.begin(), stats.pools.end(),
                                    [](const PoolStats& pool) { return !pool.failure.empty(); });
  family.Add(static_cast<double>(stats.pools.size()) - static_cast<double>(failed), {"ok"});
  family.Add(static_cast<double>(failed), {"failed"});
  return family.Take();
}

MetricFamily Limits(const LimitSample& limits) {
  Family family(MetricId::kLimit);
  family.Add(static_cast<double>(limits.queued_requests), {"queued_requests"});
  family.Add(static_cast<double>(limits.queued_items), {"queued_items"});
  family.Add(static_cast<double>(limits.queued_tokens), {"queued_tokens"});
  family.Add(ToDouble(limits.staging_bytes), {"staging_bytes"});
  family.Add(static_cast<double>(limits.sessions), {"sessions"});
  family.Add(static_cast<double>(limits.sequences), {"sequences"});
  return family.Take();
}

void AddDevices(const std::vector<DeviceSample>& devices, std::vector<MetricFamily>& families) {
  Family info(MetricId::kDeviceInfo), memory(MetricId::kDeviceMemoryBytes);
  Family temperature(MetricId::kDeviceTemperatureCelsius), power(MetricId::kDevicePowerWatts);
  for (size_t i = 0; i < devices.size(); ++i) {
    const DeviceSample& device = devices[i];
    const std::string index = std::to_string(i);
    info.Add(1, {index, device.name, device.backend});
    memory.Add(ToDouble(device.total_memory), {index, "total"});
    if (device.used_memory) memory.Add(ToDouble(*device.used_memory), {index, "used"});
    const auto add_celsius = [&](const char* sensor, const std::optional<double>& celsius) {
      if (celsius) temperature.Add(*celsius, {index, sensor});
    };
    add_celsius("edge", device.edge_celsius);
    add_celsius("junction", device.junction_celsius);
    add_celsius("memory", device.memory_celsius);
    if (device.power_watts) power.Add(*device.power_watts, {index});
  }
  for (Family* family : {&info, &memory, &temperature, &power}) families.push_back(family->Take());
}

// What one label value of `tenant` stands for.
struct TenantSeries {
  std::string name;
  Bytes kv_bytes{}, kv_bytes_limit{};
  int64_t sessions = 0, sequences = 0;
  uint64_t tokens_attended = 0;
  uint64_t refused_kv_bytes = 0, refused_sessions = 0, refused_sequences = 0, refused_caches = 0;
  uint64_t refused_queue = 0;

  void Add(const TenantInfo& info, Bytes limit, uint64_t tokens, uint64_t queue_refusals) {
    kv_bytes += info.kv_bytes;
    kv_bytes_limit += limit;
    sessions += info.sessions;
    sequences += info.sequences;
    tokens_attended += tokens;
    refused_kv_bytes += info.refused_kv_bytes;
    refused_sessions += info.refused_sessions;
    refused_sequences += info.refused_sequences;
    refused_caches += info.refused_caches;
    refused_queue += queue_refusals;
  }
};

// Those that have a name; the one without where callers are not told apart. The first so many are
// shown alone.
std::vector<TenantSeries> TenantsOf(const GaugeSample& sample) {
  const std::vector<TenantInfo>& tenants = sample.cache.tenants;
  const auto at = [](const std::vector<uint64_t>& counts, size_t i) {
    return i < counts.size() ? counts[i] : 0;
  };
  std::vector<TenantSeries> series;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const TenantInfo& info = tenants[i];
    if (info.name.empty() && tenants.size() > 1) continue;
    if (series.size() <= kMaxTenantSeries) {
      series.push_back({.name = series.size() < kMaxTenantSeries ? info.name : kOtherTenants});
    }
    const bool limited = info.limits.kv_bytes > Bytes(0);
    series.back().Add(info, limited ? info.limits.kv_bytes : sample.cache.pool_bytes,
                      at(sample.tenant_tokens_attended, i), at(sample.tenant_queue_refusals, i));
  }
  return series;
}

void AddTenants(const GaugeSample& sample, std::vector<MetricFamily>& families) {
  Family sessions(MetricId::kSessions), sequences(MetricId::kSequences);
  Family bytes(MetricId::kTenantPoolBytes), limit(MetricId::kTenantPoolBytesLimit);
  Family tokens(MetricId::kTenantTokensAttendedTotal), refused(MetricId::kTenantRefusedTotal);
  for (const TenantSeries& tenant : TenantsOf(sample)) {
    const std::string_view name = tenant.name;
    sessions.Add(static_cast<double>(tenant.sessions), {name});
    sequences.Add(static_cast<double>(tenant.sequences), {name});
    bytes.Add(ToDouble(tenant.kv_bytes), {name});
    limit.Add(ToDouble(tenant.kv_bytes_limit), {name});
    tokens.Add(static_cast<double>(tenant.tokens_attended), {name});
    refused.Add(static_cast<double>(tenant.refused_kv_bytes), {name, "kv_bytes"});
    refused.Add(static_cast<double>(tenant.refused_sessions), {name, "sessions"});
    refused.Add(static_cast<double>(tenant.refused_sequences), {name, "sequences"});
    refused.Add(static_cast<double>(tenant.refused_caches), {name, "caches"});
    refused.Add(static_cast<double>(tenant.refused_queue), {name, "queue"});
  }
  for (Family* family : {&sessions, &sequences, &bytes, &limit, &tokens, &refused}) {
    families.push_back(family->Take());
  }
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
  families.push_back(Limits(sample.limits));
  AddDevices(sample.devices, families);
  AddTenants(sample, families);
  const auto add = [&](MetricId id, auto value) {
    families.push_back(Single(id, static_cast<double>(value)));
  };
  add(MetricId::kPoolFragmentationRatio, Fragmentation(cache));
  add(MetricId::kQueueItems, sample.queued_items);
  add(MetricId::kQueueTokens, sample.queued_tokens);
  add(MetricId::kLaunchedItems, sample.launched_items);
  add(MetricId::kStagingBytes, sample.staging_bytes_in_use);
  add(MetricId::kDraining, sample.draining ? 1 : 0);
  if (sample.tls_certificate_expiry_s) {
    add(MetricId::kTlsCertificateExpiryTimestampSeconds, *sample.tls_certificate_expiry_s);
  }
  add(MetricId::kPagesCopiedTotal, cache.pages_copied_total);
  add(MetricId::kSlabsMovedTotal, cache.slabs_moved_total);
  add(MetricId::kPrefixTokensQueriedTotal, cache.prefix_tokens_queried_total);
  add(MetricId::kPrefixTokensMatchedTotal, cache.prefix_tokens_matched_total);
  add(MetricId::kPrefixPagesEvictedTotal, cache.prefix_pages_evicted_total);
  return families;
}

std::vector<MetricFamily> CollectProcess() {
  return {Single(MetricId::kProcessResidentMemoryBytes, ResidentBytes()),
          Single(MetricId::kProcessCpuSecondsTotal, CpuSeconds())};
}

}  // namespace attnd
