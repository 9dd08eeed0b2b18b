// SPDX-License-Identifier: Apache-2.0
//
// The parts of attnctl that need no daemon: tables, numbers, the metrics format.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/bench_report.h"
#include "client/cli/format.h"
#include "client/cli/metrics_scrape.h"
#include "client/cli/reference.h"
#include "client/cli/table.h"
#include "client/cli/terminal.h"

namespace attnd::cli {
namespace {

TEST(FormatTest, RoundsToThreeDigits) {
  EXPECT_EQ(HumanBytes(512), "512 B");
  EXPECT_EQ(HumanBytes(1536), "1.50 KiB");
  EXPECT_EQ(HumanBytes(1024.0 * 1024 * 1024), "1.00 GiB");
  EXPECT_EQ(HumanCount(950), "950");
  EXPECT_EQ(HumanCount(12345), "12.3k");
  EXPECT_EQ(HumanCount(0.5), "0.50");
  EXPECT_EQ(HumanSeconds(0.0042), "4.20 ms");
  EXPECT_EQ(HumanSeconds(5.3e-5), "53.0 us");
  EXPECT_EQ(HumanSeconds(3 * 3600 + 7 * 60), "3h 07m");
  EXPECT_EQ(HumanSeconds(std::nan("")), "-");
}

TEST(TableTest, AlignsColumnsAndTrimsLines) {
  Table table({"name", "count", "<note"});
  table.Add({"a", "1", "x"});
  table.Add({"long name", "1000"});
  EXPECT_EQ(table.ToString(),
            "name       count  note\n"
            "---------  -----  ----\n"
            "a              1  x\n"
            "long name   1000\n");
}

TEST(BarTest, FillsInProportionAndStaysInside) {
  EXPECT_EQ(Bar(0.5, 4), "[##..]");
  EXPECT_EQ(Bar(7.0, 4), "[####]");
  EXPECT_EQ(Bar(-1.0, 4), "[....]");
}

constexpr char kMetrics[] =
    "# HELP requests_total Calls.\n"
    "# TYPE requests_total counter\n"
    "requests_total{method=\"Attend\",code=\"OK\"} 7\n"
    "requests_total{method=\"Attend\",code=\"say \\\"no\\\"\"} 2\n"
    "plain 1.5e3\n"
    "stage_bucket{stage=\"queue\",phase=\"decode\",le=\"0.1\"} 10\n"
    "stage_bucket{stage=\"queue\",phase=\"prefill\",le=\"0.1\"} 10\n"
    "stage_bucket{stage=\"queue\",phase=\"decode\",le=\"0.2\"} 20\n"
    "stage_bucket{stage=\"queue\",phase=\"prefill\",le=\"0.2\"} 20\n"
    "stage_bucket{stage=\"queue\",phase=\"decode\",le=\"+Inf\"} 20\n"
    "stage_bucket{stage=\"queue\",phase=\"prefill\",le=\"+Inf\"} 20\n";

TEST(MetricSamplesTest, SumsOverTheLabelsThatAreNotGiven) {
  const MetricSamples samples = MetricSamples::Parse(kMetrics);
  EXPECT_EQ(samples.Sum("requests_total"), 9);
  EXPECT_EQ(samples.Sum("requests_total", {{"code", "OK"}}), 7);
  EXPECT_EQ(samples.Sum("requests_total", {{"code", "say \"no\""}}), 2);
  EXPECT_EQ(samples.Sum("plain"), 1500);
  EXPECT_EQ(samples.Sum("absent"), 0);
  EXPECT_THAT(samples.LabelValues("stage_bucket", "phase"),
              testing::ElementsAre("decode", "prefill"));
}

TEST(HistogramQuantileTest, InterpolatesWhatWasCountedInBetween) {
  const auto after = MetricSamples::Parse(kMetrics).Buckets("stage", {{"stage", "queue"}});
  EXPECT_NEAR(HistogramQuantile({}, after, 0.5), 0.1, 1e-12);
  EXPECT_NEAR(HistogramQuantile({}, after, 0.75), 0.15, 1e-12);
  const std::map<double, double> before = {{0.1, 20}, {0.2, 20}, {INFINITY, 20}};
  EXPECT_NEAR(HistogramQuantile(before, after, 0.5), 0.15, 1e-12);
  EXPECT_TRUE(std::isnan(HistogramQuantile(after, after, 0.5)));
}

TEST(PercentileTest, TakesTheNearestRank) {
  EXPECT_EQ(Percentile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(Percentile({3, 1, 2}, 0.99), 3);
  EXPECT_EQ(Percentile({}, 0.5), 0);
}

TEST(ErrorStatsTest, CountsANanAsInfinitelyWrong) {
  ErrorStats errors;
  errors.Add(1.0, 1.0);
  EXPECT_EQ(errors.relative_l2(), 0.0);
  errors.Add(-INFINITY, -INFINITY);  // the LSE of a row that sees nothing
  EXPECT_EQ(errors.relative_l2(), 0.0);
  errors.Add(std::nan(""), 1.0);
  EXPECT_TRUE(std::isinf(errors.relative_l2()));
}

// One query over two equal keys is the mean of their values.
TEST(HostKvTest, AttendsLikeArithmeticByHand) {
  const client::CacheGeometry geometry{
      .num_layers = 1, .num_query_heads = 1, .num_kv_heads = 1, .head_dim_k = 2};
  HostKv kv(geometry);
  const std::vector<float> q = {1, 1}, k = {1, 0, 1, 0, 9, 9}, v = {2, 4, 4, 8, 9, 9};
  kv.Write(0, k, v);
  kv.Write(1, std::span(k).subspan(2, 2), std::span(v).subspan(2, 2));  // cuts the third token
  ASSERT_EQ(kv.length(), 2);
  const ReferenceOutput result = kv.Attend({.q = q, .start_position = 1});
  EXPECT_THAT(result.out,
              testing::ElementsAre(testing::DoubleNear(3, 1e-12), testing::DoubleNear(6, 1e-12)));
}

}  // namespace
}  // namespace attnd::cli
