// SPDX-License-Identifier: Apache-2.0
//
// The status page's JSON, read back.
#include "server/observe/status_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/metric_family.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "server/observe/metrics.h"

namespace attnd {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kHostile[] = "</script><script>alert(1)</script> \"quoted\" \\ \x01 \n é";

StatusReport Report() {
  StatusReport report;
  report.version = "1.2.3";
  report.uptime = std::chrono::milliseconds(90500);
  report.unix_time_ms = 1700000000123;
  report.capabilities.backend = "cpu";
  report.capabilities.isa = "AVX3";
  report.capabilities.dtypes = {{DType::kF16, DType::kBF16}};
  report.capabilities.head_dims = {{64, 64}, {192, 128}};
  report.capabilities.features = {Feature::kCausal, Feature::kLse};
  report.options = "listen = 127.0.0.1:7450\ntenants_file = /etc/attnd/a = b.yaml\nready_file = \n";
  CacheInfo cache;
  cache.tenant_name = "chat";
  cache.name = kHostile;
  cache.geometry = {.num_layers = 2,
                    .num_query_heads = 8,
                    .num_kv_heads = 4,
                    .head_dim_k = 64,
                    .head_dim_v = 32,
                    .kv_dtype = DType::kF16};
  cache.used = PageCount(5);
  cache.cached = PageCount(2);
  cache.free = PageCount(4);
  cache.reserved = PageCount(1);
  cache.quota = PageCount(100);
  cache.num_sequences = 3;
  report.sample.cache.caches = {cache};
  report.sample.cache.pools = {{.bytes = Bytes(100), .free_bytes = Bytes(60), .failure = "lost"}};
  report.sample.cache.tenants = {{.name = ""},
                                 {.name = "chat",
                                  .limits = {.kv_bytes = Bytes(50), .sessions = 7},
                                  .kv_bytes = Bytes(40),
                                  .sessions = 1,
                                  .refused_kv_bytes = 2}};
  report.sample.tenant_queue_refusals = {0, 3};
  report.sample.devices = {{.name = "hip:0", .backend = "hip", .total_memory = Bytes(1000)}};
  SessionInfo session;
  session.session = SessionId(ObjectId{.boot = 0xfeedface, .slot = 4711, .generation = 1});
  session.tenant_name = "chat";
  session.label = kHostile;
  session.epoch = 9;
  session.num_sequences = 3;
  session.lease = std::chrono::seconds(60);
  session.lease_remaining = std::chrono::milliseconds(1500);
  report.sessions = {session};
  return report;
}

TEST(StatusJsonTest, SaysWhatTheDaemonHas) {
  const json status = json::parse(StatusJson(Report()));
  EXPECT_EQ(status["version"], "1.2.3");
  EXPECT_EQ(status["uptime_s"], 90.5);
  EXPECT_EQ(status["time_ms"], 1700000000123);
  EXPECT_EQ(status["state"], "serving");
  const json& cache = status["caches"][0];
  EXPECT_EQ(cache["tenant"], "chat");
  EXPECT_EQ(cache["dtype"], "f16");
  EXPECT_EQ(cache["head_dim_v"], 32);
  // As in attnd_pages: reserved pages are free ones that are promised.
  EXPECT_EQ(cache["pages"], (json{{"used", 5}, {"cached", 2}, {"free", 3}, {"reserved", 1}}));
  EXPECT_EQ(status["sessions"]["total"], 1);
  EXPECT_EQ(status["sessions"]["listed"][0]["lease_remaining_s"], 1.5);
  ASSERT_EQ(status["tenants"].size(), 1u);  // nobody is called ""
  EXPECT_EQ(status["tenants"][0]["kv_bytes_limit"], 50);
  EXPECT_EQ(status["tenants"][0]["refused"], 5);
  const json& device = status["devices"][0];
  EXPECT_EQ(device["failure"], "lost");
  EXPECT_EQ(device["pool_free_bytes"], 60);
  EXPECT_TRUE(device["memory_used_bytes"].is_null());
  EXPECT_TRUE(device["watts"].is_null());
  EXPECT_EQ(status["capabilities"]["features"]["causal"], true);
  EXPECT_EQ(status["capabilities"]["features"]["sinks"], false);
  EXPECT_EQ(status["capabilities"]["head_dims"][1], (json{{"k", 192}, {"v", 128}}));
  EXPECT_EQ(status["options"][1],
            (json{{"name", "tenants_file"}, {"value", "/etc/attnd/a = b.yaml"}}));
  EXPECT_EQ(status["options"][2], (json{{"name", "ready_file"}, {"value", ""}}));
}

TEST(StatusJsonTest, ClientsTextComesBackAsItWasAndNothingElseOfASession) {
  const std::string text = StatusJson(Report());
  const json status = json::parse(text);
  EXPECT_EQ(status["caches"][0]["name"], kHostile);
  const json& session = status["sessions"]["listed"][0];
  EXPECT_EQ(session["label"], kHostile);
  std::set<std::string> fields;
  for (const auto& [name, value] : session.items()) fields.insert(name);
  EXPECT_EQ(fields, (std::set<std::string>{"tenant", "label", "sequences", "lease_s",
                                           "lease_remaining_s"}));
  // No id that would name the session to another call.
  for (const char* id : {"4277009102", "feedface", "4711"}) {
    EXPECT_THAT(text, Not(HasSubstr(id)));
  }
}

TEST(StatusJsonTest, BrokenUtf8IsReplaced) {
  StatusReport report = Report();
  report.sessions[0].label =
      "a\xff\xfe"
      "b";
  const json status = json::parse(StatusJson(report));
  EXPECT_EQ(status["sessions"]["listed"][0]["label"],
            "a\xef\xbf\xbd\xef\xbf\xbd"
            "b");
}

TEST(StatusJsonTest, SaysWhyItDoesNotServe) {
  StatusReport report = Report();
  report.ready = absl::InternalError("device \"hip:0\" failed: lost");
  EXPECT_EQ(json::parse(StatusJson(report))["state"], "failed");
  EXPECT_EQ(json::parse(StatusJson(report))["why"], "device \"hip:0\" failed: lost");
  report.sample.draining = true;
  report.ready = absl::OkStatus();
  EXPECT_EQ(json::parse(StatusJson(report))["state"], "draining");
}

TEST(StatusJsonTest, ListsTheLargestSessionsAndCountsAll) {
  StatusReport report = Report();
  report.sessions.assign(kMaxListedSessions + 5, report.sessions[0]);
  report.sessions.back().num_sequences = 1000;
  report.sessions.back().label = "the largest";
  const json sessions = json::parse(StatusJson(report))["sessions"];
  EXPECT_EQ(sessions["total"], kMaxListedSessions + 5);
  EXPECT_EQ(sessions["listed"].size(), kMaxListedSessions);
  EXPECT_EQ(sessions["listed"][0]["label"], "the largest");
}

TEST(StatusJsonTest, MetricsAreThoseOfTheScrape) {
  Metrics metrics;
  metrics.RecordRequest(Method::kAttend, absl::StatusCode::kOk, Phase::kDecode,
                        {.kernel = std::chrono::milliseconds(3)});
  metrics.RecordTenantTokens(TenantIndex(1), 77);
  StatusReport report = Report();
  report.families = metrics.Collect(report.sample);
  const json all = json::parse(StatusJson(report))["metrics"];
  EXPECT_EQ(all["attnd_requests_total"],
            json::parse(R"([{"labels": {"code": "OK", "method": "Attend"}, "value": 1.0}])"));
  EXPECT_EQ(all["attnd_pages"].size(), 4u);
  EXPECT_EQ(all["attnd_tenant_tokens_attended_total"][0]["value"], 77);
  const json& seconds = all["attnd_request_duration_seconds"][0];
  EXPECT_EQ(seconds["count"], 1);
  EXPECT_DOUBLE_EQ(seconds["sum"].get<double>(), 0.003);
  EXPECT_TRUE(seconds["buckets"].back()[0].is_null());  // the one without a bound
  EXPECT_EQ(seconds["buckets"].back()[1], 1);
  EXPECT_EQ(seconds["buckets"][0], (json{1e-6, 0}));
}

TEST(StatusJsonTest, ADaemonThatHasNothingYetIsNoSpecialCase) {
  StatusReport report;
  report.families = Metrics().Collect(report.sample);
  const json status = json::parse(StatusJson(report));
  for (const char* list : {"caches", "devices", "tenants", "options"}) {
    EXPECT_TRUE(status[list].is_array() && status[list].empty()) << list;
  }
  EXPECT_EQ(status["sessions"]["total"], 0);
  EXPECT_EQ(status["metrics"]["attnd_launches_total"][0]["value"], 0);
}

}  // namespace
}  // namespace attnd
