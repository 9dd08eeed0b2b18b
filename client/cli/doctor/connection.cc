// SPDX-License-Identifier: Apache-2.0
//
// The daemon itself: does it answer, is it well, how far away is it?
#include <ifaddrs.h>
#include <netdb.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/format.h"
#include "client/cli/metrics_scrape.h"
#include "client/cpp/error_detail.h"

namespace attnd::cli {
namespace {

void CheckSocket(const Globals& globals, Report& report) {
  if (globals.address.rfind("unix:", 0) != 0) return;
  const std::string path = globals.address.substr(5);
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    return report.Fail("socket", path + ": " + std::strerror(errno),
                       errno == EACCES ? "a folder above it is closed to this user"
                                       : "start attnd with --listen " + globals.address);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return report.Fail("socket", path + " is not a socket", "is the path right?");
  }
  if (access(path.c_str(), R_OK | W_OK) != 0) {
    return report.Fail(
        "socket", path + ": " + std::strerror(errno),
        absl::StrFormat("join group %d, or run as user %d", info.st_gid, info.st_uid));
  }
  report.Ok("socket", absl::StrFormat("%s, mode %03o", path, info.st_mode & 0777));
}

// The numeric addresses of this machine's network interfaces.
std::vector<std::string> OwnAddresses() {
  std::vector<std::string> addresses;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return addresses;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    char text[NI_MAXHOST];
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (getnameinfo(entry->ifa_addr, size, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0) {
      addresses.emplace_back(text);
    }
  }
  freeifaddrs(list);
  return addresses;
}

}  // namespace

bool IsLocalAddress(std::string_view address) {
  if (address.rfind("unix:", 0) == 0) return true;
  std::string host(address.substr(0, address.rfind(':')));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0) return true;
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) == 0 && host == name) return true;
  const std::vector<std::string> own = OwnAddresses();
  return std::find(own.begin(), own.end(), host) != own.end();
}

DaemonFacts CheckConnection(const Globals& globals, Report& report) {
  DaemonFacts facts{.local = IsLocalAddress(globals.address)};
  CheckSocket(globals, report);
  const auto client = Connect(globals);
  if (!client.ok()) {
    report.Fail("connection", std::string(client.status().message()),
                client::IsChannelError(client.status())
                    ? "start attnd, or name its address with --address or ATTND_ADDRESS"
                : absl::IsUnauthenticated(client.status())
                    ? "name a token that attnd's tenants file has, with --token_file"
                    : "");
    return facts;
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto stats = (*client)->GetStats();
  facts.round_trip_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!stats.ok()) {
    report.Fail("connection", std::string(stats.status().message()),
                absl::IsUnimplemented(stats.status())
                    ? "is that attnd? Something else speaks gRPC there"
                    : "");
    return facts;
  }
  facts.stats = *stats;
  facts.isa = (*client)->capabilities().isa;
  report.Ok("connection", "attnd at " + globals.address + " answers in " +
                              HumanSeconds(facts.round_trip_s) + "; backend " + stats->backend);
  if (stats->version == ATTND_VERSION) {
    report.Ok("version", "daemon and attnctl are both " + stats->version);
  } else {
    report.Warn("version", "the daemon is " + stats->version + ", attnctl " ATTND_VERSION,
                "install the same release on both sides");
  }
  if (stats->draining) {
    report.Fail("state", "draining: it takes no new work", "restart attnd");
  }
  for (const client::DeviceStats& device : stats->devices) {
    if (device.failure.empty()) continue;
    report.Fail("device", device.name + " failed: " + device.failure,
                "its sequences are lost; restart attnd, and read `dmesg | grep amdgpu`");
  }
  const auto integrity = (*client)->CheckIntegrity();
  if (integrity.ok()) {
    report.Ok("integrity", absl::StrFormat("%d pages and %d sequences are consistent",
                                           integrity->pages_checked, integrity->sequences_checked));
  } else if (absl::IsPermissionDenied(integrity.status())) {
    report.Unknown("integrity", std::string(integrity.status().message()),
                   "check with an admin's token");
  } else {
    report.Fail("integrity", std::string(integrity.status().message()),
                "report this with the daemon's log, and restart it");
  }
  return facts;
}

void CheckMetrics(const Globals& globals, Report& report) {
  const auto metrics = ScrapeMetrics(globals.metrics_address);
  if (metrics.ok() && metrics->Has("attnd_launches_total")) {
    return report.Ok("metrics", "served at http://" + globals.metrics_address + "/metrics");
  }
  report.Warn("metrics",
              metrics.ok() ? "what answers at " + globals.metrics_address + " is not attnd"
                           : std::string(metrics.status().message()),
              "name the port with --metrics, or start attnd with --metrics_listen");
}

void CheckDistance(const Globals& globals, const DaemonFacts& daemon, Report& report) {
  if (daemon.local) {
    return report.Ok("distance",
                     "attnd's address is on this machine: the checks below are of its "
                     "machine");
  }
  std::string found = globals.address +
                      " is another machine: every query, key and value crosses the network, and "
                      "the checks below are of this machine, not of attnd's";
  // The largest cache says what a token costs: q, k and v go there and the output comes back, f32.
  int64_t elems = 0, layers = 0;
  for (const client::CacheInfo& cache :
       daemon.stats ? daemon.stats->caches : std::vector<client::CacheInfo>()) {
    const client::CacheGeometry& g = cache.geometry;
    const int64_t all = int64_t{g.num_layers} * (g.num_query_heads + g.num_kv_heads) *
                        (g.head_dim_k + g.value_dim());
    if (all > elems) {
      elems = all;
      layers = g.num_layers;
    }
  }
  if (elems > 0) {
    found += absl::StrFormat(
        "; a token of the largest cache moves %s in f32 and waits for %d round "
        "trips, now %s",
        HumanBytes(4.0 * static_cast<double>(elems)), layers,
        HumanSeconds(static_cast<double>(layers) * daemon.round_trip_s));
  }
  report.Warn(
      "distance", found,
      "run the model server beside attnd, send f16 or bf16, batch sequences into one request "
      "(AttendStream hides round trips of independent ones)");
}

}  // namespace attnd::cli
