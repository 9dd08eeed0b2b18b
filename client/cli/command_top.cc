// SPDX-License-Identifier: Apache-2.0
//
// attnctl top: the daemon at work. Rates and latencies are those since the last refresh; latency by
// stage comes from the metrics port, everything else from GetStats, so that it works without it.
#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <thread>

#include "absl/strings/str_format.h"
#include "client/cli/cache_table.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/metrics_scrape.h"
#include "client/cli/table.h"
#include "client/cli/terminal.h"

namespace attnd::cli {
namespace {

using client::Stats;
using std::chrono::steady_clock;

struct TopOptions {
  double interval_s = 1.0;
  bool once = false;
};

// One look at everything.
struct Look {
  steady_clock::time_point when;
  Stats stats;
  std::optional<MetricSamples> metrics;
  std::string metrics_error;
};

absl::StatusOr<Look> TakeLook(client::Client& client, const Globals& globals) {
  auto stats = client.GetStats({.timeout = std::chrono::seconds(5)});
  if (!stats.ok()) return stats.status();
  Look look{
      .when = steady_clock::now(), .stats = *std::move(stats), .metrics = {}, .metrics_error = {}};
  if (auto metrics = ScrapeMetrics(globals.metrics_address); metrics.ok()) {
    look.metrics = *std::move(metrics);
  } else {
    look.metrics_error = std::string(metrics.status().message());
  }
  return look;
}

std::string Rates(const Look& before, const Look& after) {
  const double elapsed = std::chrono::duration<double>(after.when - before.when).count();
  const auto rate = [elapsed](auto old_total, auto new_total) {
    return HumanCount(
        std::max(0.0, static_cast<double>(new_total) - static_cast<double>(old_total)) / elapsed);
  };
  const Stats& a = before.stats;
  const Stats& b = after.stats;
  const double busy = (b.kernel_seconds_total - a.kernel_seconds_total) / elapsed;
  const double launches = static_cast<double>(b.launches_total - a.launches_total);
  const double items = static_cast<double>(b.items_total - a.items_total);
  Table table({"per second", "requests", "items", "launches", "items/launch", "tokens attended",
               "tokens written"});
  table.Add({"", rate(a.requests_total, b.requests_total), rate(a.items_total, b.items_total),
             rate(a.launches_total, b.launches_total),
             launches > 0 ? HumanCount(items / launches) : "-",
             rate(a.tokens_attended_total, b.tokens_attended_total),
             rate(a.tokens_written_total, b.tokens_written_total)});
  return table.ToString() + absl::StrFormat("\nkernel  %s %s busy\n", Bar(busy, 30), Percent(busy));
}

// One row a stage and one for the whole request, over what was counted between two looks.
std::string Latencies(const Look& before, const Look& after) {
  if (!after.metrics) return "latency: " + after.metrics_error + "\n";
  Table table({"latency", "p50", "p99", "mean", "count"});
  const MetricSamples empty;
  const MetricSamples& old = before.metrics ? *before.metrics : empty;
  const auto add = [&](const std::string& name, const std::string& histogram,
                       const std::map<std::string, std::string>& labels) {
    const auto a = old.Buckets(histogram, labels), b = after.metrics->Buckets(histogram, labels);
    const double count =
        after.metrics->Sum(histogram + "_count", labels) - old.Sum(histogram + "_count", labels);
    const double sum =
        after.metrics->Sum(histogram + "_sum", labels) - old.Sum(histogram + "_sum", labels);
    table.Add({name, HumanSeconds(HistogramQuantile(a, b, 0.5)),
               HumanSeconds(HistogramQuantile(a, b, 0.99)),
               count > 0 ? HumanSeconds(sum / count) : "-", HumanCount(count)});
  };
  for (const char* stage : {"stage_in", "queue", "kernel", "stage_out"}) {
    add(stage, "attnd_stage_duration_seconds", {{"stage", stage}});
  }
  add("request", "attnd_request_duration_seconds", {});
  return table.ToString();
}

std::string Render(const Globals& globals, const Look& before, const Look& after) {
  const Stats& stats = after.stats;
  const double used = static_cast<double>(stats.pool_bytes - stats.pool_free_bytes);
  const auto pool = static_cast<double>(stats.pool_bytes);
  std::string text = absl::StrFormat(
      "attnd %s at %s  %s on %s  up %s  %s\n\n", stats.version, globals.address, stats.backend,
      stats.device, HumanSeconds(stats.uptime_seconds), stats.draining ? "DRAINING" : "serving");
  text += Rates(before, after);
  text += absl::StrFormat("pool    %s %s of %s, process %s\n", Bar(pool > 0 ? used / pool : 0, 30),
                          HumanBytes(used), HumanBytes(pool),
                          HumanBytes(static_cast<double>(stats.resident_bytes)));
  text += absl::StrFormat("queue   %d items, %d tokens; %d sessions, %d sequences\n\n",
                          stats.queued_items, stats.queued_tokens, stats.sessions, stats.sequences);
  text += Latencies(before, after) + "\n";
  text += stats.caches.empty() ? "No cache is open.\n" : CacheTable(stats.caches);
  return text;
}

int Run(const Globals& globals, const TopOptions& options) {
  auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  auto before = TakeLook(**client, globals);
  if (!before.ok()) return Fail(globals, before.status());
  const Duration interval(static_cast<int64_t>(options.interval_s * 1e9));

  if (options.once || !StdoutIsTerminal()) {
    do {
      std::this_thread::sleep_for(interval);
      auto after = TakeLook(**client, globals);
      if (!after.ok()) return Fail(globals, after.status());
      std::cout << Render(globals, *before, *after) << std::endl;
      before = std::move(after);
    } while (!options.once && std::cout.good());
    return kSuccess;
  }

  absl::Status status;
  {
    LiveScreen screen;
    screen.Draw("Measuring for " + HumanSeconds(options.interval_s) + " ...\n");
    while (screen.Wait(interval) == LiveScreen::Event::kTimeout) {
      auto after = TakeLook(**client, globals);
      status = after.status();
      if (!status.ok()) {
        // A daemon that restarts is back in a moment: keep looking until the user has had enough.
        screen.Draw("attnd at " + globals.address + " does not answer; still trying, q quits\n\n" +
                    std::string(status.message()) + "\n");
        continue;
      }
      // After a restart the totals begin anew.
      if (after->stats.uptime_seconds < before->stats.uptime_seconds) before = after;
      screen.Draw(Render(globals, *before, *after) + "\nq quits\n");
      before = std::move(after);
    }
  }
  return status.ok() ? kSuccess : Fail(globals, status);
}

}  // namespace

void AddTopCommand(CLI::App& app, Globals& globals) {
  CLI::App* command =
      app.add_subcommand("top", "Live view: rates, latency by stage, memory, caches");
  auto options = std::make_shared<TopOptions>();
  command->add_option("--interval", options->interval_s, "Seconds between refreshes")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  command->add_flag("--once", options->once, "Print one sample as plain text and exit");
  command->callback([&globals, options] { globals.exit_code = Run(globals, *options); });
}

}  // namespace attnd::cli
