// SPDX-License-Identifier: Apache-2.0
//
// attnctl status: one look at the daemon. attnctl caches: the caches and their pages.
#include <iostream>
#include <string>

#include <nlohmann/json.hpp>

#include "client/cli/cache_table.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/table.h"

namespace attnd::cli {
namespace {

using client::Stats;

std::string Count(auto value) { return HumanCount(static_cast<double>(value)); }
std::string Size(uint64_t bytes) { return HumanBytes(static_cast<double>(bytes)); }

nlohmann::json ToJson(const Stats& stats) {
  nlohmann::json json = {{"version", stats.version},
                         {"uptime_seconds", stats.uptime_seconds},
                         {"backend", stats.backend},
                         {"device", stats.device},
                         {"draining", stats.draining},
                         {"pool_bytes", stats.pool_bytes},
                         {"pool_free_bytes", stats.pool_free_bytes},
                         {"resident_bytes", stats.resident_bytes},
                         {"sessions", stats.sessions},
                         {"sequences", stats.sequences},
                         {"queued_items", stats.queued_items},
                         {"queued_tokens", stats.queued_tokens},
                         {"requests_total", stats.requests_total},
                         {"items_total", stats.items_total},
                         {"launches_total", stats.launches_total},
                         {"tokens_written_total", stats.tokens_written_total},
                         {"tokens_attended_total", stats.tokens_attended_total},
                         {"kernel_seconds_total", stats.kernel_seconds_total},
                         {"prefix_tokens_queried_total", stats.prefix_tokens_queried_total},
                         {"prefix_tokens_matched_total", stats.prefix_tokens_matched_total},
                         {"prefix_pages_evicted_total", stats.prefix_pages_evicted_total},
                         {"devices", nlohmann::json::array()},
                         {"tenants", nlohmann::json::array()},
                         {"caches", nlohmann::json::array()}};
  for (const client::DeviceStats& device : stats.devices) {
    json["devices"].push_back({{"name", device.name},
                               {"pool_bytes", device.pool_bytes},
                               {"pool_free_bytes", device.pool_free_bytes},
                               {"sequences", device.sequences},
                               {"failure", device.failure},
                               {"host_memory", device.host_memory}});
  }
  for (const client::TenantStats& tenant : stats.tenants) {
    json["tenants"].push_back({{"name", tenant.name},
                               {"kv_bytes", tenant.kv_bytes},
                               {"kv_bytes_limit", tenant.kv_bytes_limit},
                               {"caches", tenant.caches},
                               {"caches_limit", tenant.caches_limit},
                               {"sessions", tenant.sessions},
                               {"sessions_limit", tenant.sessions_limit},
                               {"sequences", tenant.sequences},
                               {"sequences_limit", tenant.sequences_limit},
                               {"refused_total", tenant.refused_total}});
  }
  for (const client::CacheInfo& cache : stats.caches)
    json["caches"].push_back(attnd::cli::ToJson(cache));
  return json;
}

// Nothing where callers are not told apart.
std::string TenantTable(const Stats& stats) {
  Table table({"tenant", "KV held", "caches", "sessions", "sequences", "refused"});
  const auto of = [](int64_t held, int64_t limit) {
    return std::to_string(held) + " of " + std::to_string(limit);
  };
  for (const client::TenantStats& tenant : stats.tenants) {
    if (tenant.name.empty()) continue;
    table.Add({tenant.name, Size(tenant.kv_bytes) + " of " + Size(tenant.kv_bytes_limit),
               of(tenant.caches, tenant.caches_limit), of(tenant.sessions, tenant.sessions_limit),
               of(tenant.sequences, tenant.sequences_limit), Count(tenant.refused_total)});
  }
  return table.empty() ? "" : "\n" + table.ToString();
}

int RunStatus(const Globals& globals) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const auto stats = (*client)->GetStats();
  if (!stats.ok()) return Fail(globals, stats.status());
  if (globals.json) {
    std::cout << ToJson(*stats).dump(2) << "\n";
    return kSuccess;
  }
  Fields fields;
  fields.Add("daemon", "attnd " + stats->version + " at " + globals.address + ", up " +
                           HumanSeconds(stats->uptime_seconds));
  fields.Add("state", stats->draining ? "draining: takes no new work" : "serving");
  fields.Add("backend", stats->backend + " on " + stats->device);
  fields.Add("pool", Size(stats->pool_bytes - stats->pool_free_bytes) + " of " +
                         Size(stats->pool_bytes) + " held by caches");
  for (const client::DeviceStats& device : stats->devices) {
    if (!device.failure.empty()) {
      fields.Add("FAILED", device.failure + "; its sequences are lost");
    } else if (stats->devices.size() > 1) {
      fields.Add("device", device.name + ", pool " +
                               Size(device.pool_bytes - device.pool_free_bytes) + " of " +
                               Size(device.pool_bytes) + ", " + Count(device.sequences) +
                               " sequences");
    }
  }
  fields.Add("process", Size(stats->resident_bytes) + " resident");
  fields.Add("holds",
             Count(stats->sessions) + " sessions, " + Count(stats->sequences) + " sequences");
  fields.Add("queue",
             Count(stats->queued_items) + " items, " + Count(stats->queued_tokens) + " tokens");
  fields.Add("served", Count(stats->requests_total) + " requests, " + Count(stats->items_total) +
                           " items in " + Count(stats->launches_total) + " launches");
  fields.Add("tokens", Count(stats->tokens_written_total) + " written, " +
                           Count(stats->tokens_attended_total) + " attended (once a layer)");
  if (stats->prefix_tokens_queried_total > 0) {
    fields.Add("prefixes", Count(stats->prefix_tokens_matched_total) + " of " +
                               Count(stats->prefix_tokens_queried_total) +
                               " prompt tokens matched, " +
                               Count(stats->prefix_pages_evicted_total) + " pages evicted");
  }
  fields.Add("kernel time", HumanSeconds(stats->kernel_seconds_total));
  std::cout << fields.ToString() << TenantTable(*stats);
  if (!stats->caches.empty()) std::cout << "\n" << CacheTable(stats->caches);
  return kSuccess;
}

int RunCaches(const Globals& globals) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const auto caches = (*client)->ListCaches();
  if (!caches.ok()) return Fail(globals, caches.status());
  if (globals.json) {
    nlohmann::json json = nlohmann::json::array();
    for (const client::CacheInfo& cache : *caches) json.push_back(attnd::cli::ToJson(cache));
    std::cout << json.dump(2) << "\n";
  } else if (caches->empty()) {
    std::cout << "No cache is open.\n";
  } else {
    std::cout << CacheTable(*caches);
  }
  return kSuccess;
}

}  // namespace

void AddStatusCommand(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand("status", "One look at the daemon");
  command->callback([&globals] { globals.exit_code = RunStatus(globals); });
}

void AddCachesCommand(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand("caches", "The caches, their geometry and their pages");
  command->callback([&globals] { globals.exit_code = RunCaches(globals); });
}

}  // namespace attnd::cli
