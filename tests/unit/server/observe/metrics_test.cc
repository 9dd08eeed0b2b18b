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
  sample.cache.num_sessions = 2;
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
  EXPECT_EQ(samples.at("attnd_pages{cache=\"a\",state=\"used\"}"), 5);
  EXPECT_EQ(samples.at("attnd_pages{cache=\"a\",state=\"cached\"}"), 6);
  // Reserved pages are free ones that are promised: the states add up to what there is.
  EXPECT_EQ(samples.at("attnd_pages{cache=\"a\",state=\"free\"}"), 2);
  EXPECT_EQ(samples.at("attnd_pages{cache=\"a\",state=\"reserved\"}"), 1);
  EXPECT_EQ(samples.at("attnd_pages{cache=\"odd \\\"name\\\"\\n\",state=\"used\"}"), 1);
  EXPECT_EQ(Sum(samples, "attnd_pool_bytes"), 16 << 20);
  EXPECT_EQ(samples.at("attnd_pool_bytes{device=\"1\",use=\"slabs\"}"), 4 << 20);
  EXPECT_EQ(samples.at("attnd_devices{state=\"failed\"}"), 1);
  EXPECT_EQ(samples.at("attnd_devices{state=\"ok\"}"), 1);
  EXPECT_DOUBLE_EQ(samples.at("attnd_pool_fragmentation_ratio"), 0.75);
  EXPECT_EQ(samples.at("attnd_sessions"), 2);
  EXPECT_EQ(samples.at("attnd_queue_items"), 4);
  EXPECT_EQ(samples.at("attnd_staging_bytes"), 1 << 20);
  EXPECT_EQ(samples.at("attnd_pages_copied_total"), 9);
  EXPECT_EQ(samples.at("attnd_prefix_tokens_queried_total"), 70);
  EXPECT_EQ(samples.at("attnd_prefix_tokens_matched_total"), 48);
  EXPECT_EQ(samples.at("attnd_prefix_pages_evicted_total"), 2);
  EXPECT_GT(samples.at("process_resident_memory_bytes"), 1 << 20);

  sample.cache.caches.erase(sample.cache.caches.begin());
  samples = Parse(metrics.Serialize());
  EXPECT_THAT(samples, Not(Contains(Key("attnd_pages{cache=\"a\",state=\"used\"}"))));
}

TEST(MetricsTest, EveryNameHasHelpAndOurPrefix) {
  Metrics metrics;
  metrics.SetSampler([] { return GaugeSample{}; });
  metrics.RecordRequest(Method::kAttend, absl::StatusCode::kOk, Phase::kDecode, {});
  metrics.RecordRefusal(Refusal::kDraining);
  std::istringstream lines(metrics.Serialize());
  int families = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# HELP ", 0) != 0) continue;
    ++families;
    const std::string name = line.substr(7, line.find(' ', 7) - 7);
    EXPECT_TRUE(name.rfind("attnd_", 0) == 0 || name.rfind("process_", 0) == 0) << name;
    EXPECT_GT(line.size(), 7 + name.size() + 4) << line;
  }
  EXPECT_GT(families, 20);
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
