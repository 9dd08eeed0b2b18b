// SPDX-License-Identifier: Apache-2.0
//
// The metrics as a scraper reads them.
#include "server/observe/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/observe/catalog.h"

namespace attnd {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using ::testing::Contains;
using ::testing::Key;
using ::testing::Not;

// "name{labels}" -> value, of every line that is no comment.
std::map<std::string, double> Parse(const std::string& text) {
  std::map<std::string, double> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    EXPECT_NE(space, std::string::npos) << line;
    char* end = nullptr;
    const double value = std::strtod(line.c_str() + space + 1, &end);
    EXPECT_EQ(*end, '\0') << line;
    EXPECT_TRUE(samples.emplace(line.substr(0, space), value).second) << "twice: " << line;
  }
  return samples;
}

// Over all labels.
double Sum(const std::map<std::string, double>& samples, const std::string& name) {
  double sum = 0;
  for (const auto& [key, value] : samples) {
    if (key == name || key.rfind(name + "{", 0) == 0) sum += value;
  }
  return sum;
}

Metrics::RequestStages Stages(int64_t in_us, int64_t queue_us, int64_t kernel_us, int64_t out_us) {
  return {microseconds(in_us), microseconds(queue_us), microseconds(kernel_us),
          microseconds(out_us)};
}

TEST(MetricsTest, StageTimesAddUpToTheRequests) {
  Metrics metrics;
  metrics.RecordRequest(Method::kAttend, absl::StatusCode::kOk, Phase::kDecode,
                        Stages(3, 20, 117, 5));
  metrics.RecordRequest(Method::kAttend, absl::StatusCode::kOk, Phase::kPrefill,
                        Stages(30, 0, 45000, 50));
  metrics.RecordRequest(Method::kFlashAttention, absl::StatusCode::kInternal, Phase::kMixed,
                        Stages(1, 2, 3, 4));
  metrics.RecordRefused(Method::kAttend, absl::StatusCode::kInvalidArgument, microseconds(7));
  const auto samples = Parse(metrics.Serialize());
  EXPECT_NEAR(Sum(samples, "attnd_stage_duration_seconds_sum"),
              Sum(samples, "attnd_request_duration_seconds_sum"), 1e-12);
  EXPECT_NEAR(Sum(samples, "attnd_request_duration_seconds_sum"), 45242e-6, 1e-12);
  EXPECT_EQ(Sum(samples, "attnd_request_duration_seconds_count"), 4);
  EXPECT_EQ(Sum(samples, "attnd_requests_total"), 4);
  EXPECT_EQ(samples.at("attnd_requests_total{code=\"OK\",method=\"Attend\"}"), 2);
  EXPECT_DOUBLE_EQ(
      samples.at("attnd_stage_duration_seconds_sum{phase=\"decode\",stage=\"kernel\"}"), 117e-6);
  EXPECT_EQ(samples.at("attnd_request_duration_seconds_count{code=\"INVALID_ARGUMENT\","
                       "method=\"Attend\"}"),
            1);
}

TEST(MetricsTest, ShowsNoSeriesOfWhatNeverHappened) {
  Metrics metrics;
  metrics.RecordItem(absl::StatusCode::kOk);
  const auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(samples.at("attnd_items_total{code=\"OK\"}"), 1);
  EXPECT_THAT(samples, Not(Contains(Key("attnd_items_total{code=\"INTERNAL\"}"))));
  // Counters without labels are there from the start: a rate needs their zero.
  EXPECT_EQ(samples.at("attnd_leases_expired_total"), 0);
  EXPECT_EQ(Sum(samples, "attnd_build_info"), 1);
}

TEST(MetricsTest, LaunchesMoveTheirCountersAndHistograms) {
  Metrics metrics;
  metrics.RecordLaunch({.items = 5,
                        .tokens = 40,
                        .query_tokens = 33,
                        .tokens_written = 24,
                        .requests = 2,
                        .kernel = milliseconds(3)});
  metrics.RecordLaunch({.items = 1,
                        .tokens = 1,
                        .query_tokens = 1,
                        .tokens_written = 0,
                        .requests = 1,
                        .kernel = milliseconds(1)});
  const auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(samples.at("attnd_launches_total"), 2);
  EXPECT_EQ(samples.at("attnd_batch_items_sum"), 6);
  EXPECT_EQ(samples.at("attnd_batch_items_bucket{le=\"4\"}"), 1);
  EXPECT_EQ(samples.at("attnd_batch_items_bucket{le=\"8\"}"), 2);
  EXPECT_EQ(samples.at("attnd_batch_tokens_sum"), 41);
  EXPECT_EQ(samples.at("attnd_batch_requests_sum"), 3);
  EXPECT_EQ(samples.at("attnd_tokens_attended_total"), 34);
  EXPECT_EQ(samples.at("attnd_tokens_written_total"), 24);
  EXPECT_DOUBLE_EQ(samples.at("attnd_kernel_seconds_total"), 4e-3);
  const Metrics::Totals totals = metrics.totals();
  EXPECT_EQ(totals.launches, 2u);
  EXPECT_EQ(totals.tokens_written, 24u);
  EXPECT_EQ(totals.tokens_attended, 34u);
  EXPECT_DOUBLE_EQ(totals.kernel_seconds, 4e-3);
}

CacheInfo CacheNamed(const std::string& name, int64_t used, int64_t free, int64_t reserved) {
  CacheInfo info;
  info.name = name;
  info.used = PageCount(used);
  info.free = PageCount(free);
  info.reserved = PageCount(reserved);
  return info;
}

TEST(MetricsTest, GaugesFollowTheSampleAndForgetClosedCaches) {
  Metrics metrics;
  GaugeSample sample;
  sample.cache.pool_bytes = Bytes(16u << 20);
  sample.cache.pool_free_bytes = Bytes(8u << 20);
  sample.cache.pools = {{.bytes = Bytes(10u << 20),
                         .free_bytes = Bytes(6u << 20),
                         .largest_free_run_superblocks = 0,
                         .failure = "it caught fire"},
                        {.bytes = Bytes(6u << 20),
                         .free_bytes = Bytes(2u << 20),
                         .largest_free_run_superblocks = 1,
                         .failure = ""}};
  sample.cache.tenants = {{.name = "", .sessions = 2}};
  sample.cache.pages_copied_total = 9;
  sample.cache.prefix_tokens_queried_total = 70;
  sample.cache.prefix_tokens_matched_total = 48;
  sample.cache.prefix_pages_evicted_total = 2;
  sample.cache.caches = {CacheNamed("a", 5, 3, 1), CacheNamed("odd \"name\"\n", 1, 0, 0)};
  sample.cache.caches[0].cached = PageCount(6);
  sample.queued_items = 4;
  sample.queued_tokens = 40;
  sample.staging_bytes_in_use = 1 << 20;
  metrics.SetSampler([&] { return sample; });
  auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(samples.at("attnd_pages{tenant=\"\",cache=\"a\",state=\"used\"}"), 5);
  EXPECT_EQ(samples.at("attnd_pages{tenant=\"\",cache=\"a\",state=\"cached\"}"), 6);
  // Reserved pages are free ones that are promised: the states add up to what there is.
  EXPECT_EQ(samples.at("attnd_pages{tenant=\"\",cache=\"a\",state=\"free\"}"), 2);
  EXPECT_EQ(samples.at("attnd_pages{tenant=\"\",cache=\"a\",state=\"reserved\"}"), 1);
  EXPECT_EQ(samples.at("attnd_pages{tenant=\"\",cache=\"odd \\\"name\\\"\\n\",state=\"used\"}"), 1);
  EXPECT_EQ(Sum(samples, "attnd_pool_bytes"), 16 << 20);
  EXPECT_EQ(samples.at("attnd_pool_bytes{device=\"1\",use=\"slabs\"}"), 4 << 20);
  EXPECT_EQ(samples.at("attnd_devices{state=\"failed\"}"), 1);
  EXPECT_EQ(samples.at("attnd_devices{state=\"ok\"}"), 1);
  EXPECT_DOUBLE_EQ(samples.at("attnd_pool_fragmentation_ratio"), 0.75);
  EXPECT_EQ(samples.at("attnd_sessions{tenant=\"\"}"), 2);
  EXPECT_EQ(samples.at("attnd_queue_items"), 4);
  EXPECT_EQ(samples.at("attnd_staging_bytes"), 1 << 20);
  EXPECT_EQ(samples.at("attnd_pages_copied_total"), 9);
  EXPECT_EQ(samples.at("attnd_prefix_tokens_queried_total"), 70);
  EXPECT_EQ(samples.at("attnd_prefix_tokens_matched_total"), 48);
  EXPECT_EQ(samples.at("attnd_prefix_pages_evicted_total"), 2);
  EXPECT_GT(samples.at("process_resident_memory_bytes"), 1 << 20);

  sample.cache.caches.erase(sample.cache.caches.begin());
  samples = Parse(metrics.Serialize());
  EXPECT_THAT(samples, Not(Contains(Key("attnd_pages{tenant=\"\",cache=\"a\",state=\"used\"}"))));
}

TenantInfo TenantNamed(const std::string& name, uint32_t index, int64_t sessions) {
  return {.tenant = TenantIndex(index),
          .name = name,
          .limits = {.kv_bytes = Bytes(4u << 20)},
          .kv_bytes = Bytes(2u << 20),
          .caches = 1,
          .sessions = sessions,
          .sequences = 3,
          .refused_kv_bytes = 1,
          .refused_caches = 2,
          .refused_sessions = 3,
          .refused_sequences = 4};
}

TEST(MetricsTest, EachTenantHasItsSeries) {
  Metrics metrics;
  GaugeSample sample;
  sample.cache.tenants = {{}, TenantNamed("chat", 1, 5), TenantNamed("batch", 2, 6)};
  sample.tenant_queue_refusals = {0, 9};
  metrics.SetSampler([&] { return sample; });
  metrics.RecordTenantTokens(TenantIndex(2), 40);
  metrics.RecordTenantTokens(TenantIndex(2), 2);
  const auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(samples.at("attnd_sessions{tenant=\"chat\"}"), 5);
  EXPECT_EQ(Sum(samples, "attnd_sessions"), 11);
  EXPECT_EQ(samples.at("attnd_sequences{tenant=\"batch\"}"), 3);
  EXPECT_EQ(samples.at("attnd_tenant_pool_bytes{tenant=\"chat\"}"), 2 << 20);
  EXPECT_EQ(samples.at("attnd_tenant_pool_bytes_limit{tenant=\"chat\"}"), 4 << 20);
  EXPECT_EQ(samples.at("attnd_tenant_tokens_attended_total{tenant=\"chat\"}"), 0);
  EXPECT_EQ(samples.at("attnd_tenant_tokens_attended_total{tenant=\"batch\"}"), 42);
  const auto refused = [&](const std::string& reason) {
    return samples.at("attnd_tenant_refused_total{tenant=\"chat\",reason=\"" + reason + "\"}");
  };
  EXPECT_EQ(refused("kv_bytes"), 1);
  EXPECT_EQ(refused("caches"), 2);
  EXPECT_EQ(refused("sessions"), 3);
  EXPECT_EQ(refused("sequences"), 4);
  EXPECT_EQ(refused("queue"), 9);
  // Nobody is called "", where callers are told apart.
  EXPECT_THAT(samples, Not(Contains(Key("attnd_sessions{tenant=\"\"}"))));
}

TEST(MetricsTest, TenantsBeyondTheLimitAreSummedUp) {
  Metrics metrics;
  GaugeSample sample;
  sample.cache.tenants.emplace_back();
  for (uint32_t i = 1; i <= kMaxTenantSeries + 3; ++i) {
    sample.cache.tenants.push_back(TenantNamed(absl::StrCat("t", i), i, 10));
  }
  metrics.SetSampler([&] { return sample; });
  const auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(samples.at("attnd_sessions{tenant=\"t64\"}"), 10);
  EXPECT_THAT(samples, Not(Contains(Key("attnd_sessions{tenant=\"t65\"}"))));
  EXPECT_EQ(samples.at("attnd_sessions{tenant=\"(others)\"}"), 30);
  EXPECT_EQ(Sum(samples, "attnd_sessions"), 670);
}

TEST(MetricsTest, WithoutALimitATenantMayHaveThePool) {
  Metrics metrics;
  GaugeSample sample;
  sample.cache.pool_bytes = Bytes(64u << 20);
  sample.cache.tenants.emplace_back();
  metrics.SetSampler([&] { return sample; });
  EXPECT_EQ(Parse(metrics.Serialize()).at("attnd_tenant_pool_bytes_limit{tenant=\"\"}"), 64 << 20);
}

TEST(MetricsTest, ControlCallsAndReloadsAreCounted) {
  Metrics metrics;
  metrics.RecordControl("OpenSession", absl::StatusCode::kOk);
  metrics.RecordControl("OpenSession", absl::StatusCode::kOk);
  metrics.RecordControl("TruncateSequence", absl::StatusCode::kNotFound);
  metrics.RecordControl("NoSuchMethod", absl::StatusCode::kOk);
  metrics.RecordReload(Reload::kTls, false);
  const auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(samples.at("attnd_control_requests_total{code=\"OK\",method=\"OpenSession\"}"), 2);
  EXPECT_EQ(
      samples.at("attnd_control_requests_total{code=\"NOT_FOUND\",method=\"TruncateSequence\"}"),
      1);
  EXPECT_EQ(samples.at("attnd_control_requests_total{code=\"OK\",method=\"other\"}"), 1);
  EXPECT_EQ(samples.at("attnd_reloads_total{result=\"failed\",what=\"tls\"}"), 1);
  // What is alerted on is there before it happens.
  EXPECT_EQ(samples.at("attnd_reloads_total{result=\"failed\",what=\"tenants\"}"), 0);
  EXPECT_EQ(samples.at("attnd_admission_refused_total{reason=\"queue_full\"}"), 0);
}

TEST(MetricsTest, DevicesShowWhatTheyTellAndNoMore) {
  Metrics metrics;
  GaugeSample sample;
  sample.devices = {{.name = "hip:0: a GPU",
                     .backend = "hip",
                     .total_memory = Bytes(1000),
                     .used_memory = Bytes(400),
                     .edge_celsius = 51,
                     .junction_celsius = 62.5,
                     .memory_celsius = 70,
                     .power_watts = 180.25},
                    {.name = "hip:1: another", .backend = "hip", .total_memory = Bytes(2000)}};
  sample.draining = true;
  sample.tls_certificate_expiry_s = 1800000000;
  sample.limits = {.queued_requests = 1, .staging_bytes = Bytes(7), .sequences = 9};
  metrics.SetSampler([&] { return sample; });
  const auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(samples.at("attnd_device_info{device=\"0\",name=\"hip:0: a GPU\",backend=\"hip\"}"), 1);
  EXPECT_EQ(samples.at("attnd_device_memory_bytes{device=\"0\",kind=\"used\"}"), 400);
  EXPECT_EQ(samples.at("attnd_device_memory_bytes{device=\"1\",kind=\"total\"}"), 2000);
  EXPECT_EQ(samples.at("attnd_device_temperature_celsius{device=\"0\",sensor=\"junction\"}"), 62.5);
  EXPECT_EQ(samples.at("attnd_device_power_watts{device=\"0\"}"), 180.25);
  EXPECT_THAT(samples, Not(Contains(Key("attnd_device_power_watts{device=\"1\"}"))));
  EXPECT_EQ(Sum(samples, "attnd_device_temperature_celsius"), 51 + 62.5 + 70);
  EXPECT_EQ(samples.at("attnd_draining"), 1);
  EXPECT_EQ(samples.at("attnd_tls_certificate_expiry_timestamp_seconds"), 1800000000);
  EXPECT_EQ(samples.at("attnd_limit{resource=\"staging_bytes\"}"), 7);
}

TEST(MetricsTest, ThreadsRecordAndScrapeAtOnce) {
  Metrics metrics;
  constexpr int kThreads = 3, kRounds = 2000;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        metrics.RecordRequest(Method::kAttend, static_cast<absl::StatusCode>((i + t) % 17),
                              Phase::kDecode, Stages(1, 2, 3, 4));
        metrics.RecordItem(static_cast<absl::StatusCode>(i % 17));
      }
    });
  }
  for (int i = 0; i < 20; ++i) Parse(metrics.Serialize());
  for (std::thread& thread : threads) thread.join();
  const auto samples = Parse(metrics.Serialize());
  EXPECT_EQ(Sum(samples, "attnd_requests_total"), kThreads * kRounds);
  EXPECT_EQ(Sum(samples, "attnd_items_total"), kThreads * kRounds);
  EXPECT_EQ(metrics.totals().requests, static_cast<uint64_t>(kThreads * kRounds));
}

}  // namespace
}  // namespace attnd
