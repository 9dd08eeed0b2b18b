// SPDX-License-Identifier: Apache-2.0
//
// The catalogue, and that what the daemon serves is what it says.
#include "server/observe/catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/metric_family.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "server/observe/metrics.h"

namespace attnd {
namespace {

using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

TEST(MetricCatalogTest, FollowsTheNamesThatPrometheusExpects) {
  ASSERT_GT(MetricCatalog().size(), 40u);
  for (const MetricSpec& spec : MetricCatalog()) {
    const std::string name = spec.name;
    EXPECT_TRUE(name.starts_with("attnd_") || name.starts_with("process_")) << name;
    EXPECT_EQ(name.ends_with("_total"), spec.type == MetricType::kCounter) << name;
    const std::string help = spec.help;
    EXPECT_GT(help.size(), 5u) << name;
    EXPECT_TRUE(help.ends_with(".")) << name << ": " << help;
    const std::set<std::string_view> labels(spec.labels().begin(), spec.labels().end());
    EXPECT_EQ(labels.size(), spec.labels().size()) << name;
    EXPECT_FALSE(labels.contains("")) << name;
    EXPECT_EQ(&SpecOf(spec.id), &spec);
  }
}

TEST(MetricCatalogTest, PrintsItselfAsJson) {
  const auto rows = nlohmann::json::parse(MetricCatalogJson());
  ASSERT_EQ(rows.size(), MetricCatalog().size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const MetricSpec& spec = MetricCatalog()[i];
    EXPECT_EQ(rows[i].size(), 4u);
    EXPECT_EQ(rows[i].at("name"), spec.name);
    EXPECT_EQ(rows[i].at("type"), std::string(Name(spec.type)));
    EXPECT_EQ(rows[i].at("help"), spec.help);
    EXPECT_EQ(rows[i].at("labels"),
              std::vector<std::string>(spec.labels().begin(), spec.labels().end()));
  }
  EXPECT_EQ(rows[0].at("name"), "attnd_admission_refused_total");
  EXPECT_EQ(SpecOf(MetricId::kPages).labels().size(), 3u);
}

// A daemon in which everything has happened.
GaugeSample FullSample() {
  GaugeSample sample;
  sample.cache.pools.resize(2);
  sample.cache.caches.resize(1);
  sample.cache.tenants.resize(1);
  sample.devices = {{.name = "hip:0",
                     .backend = "hip",
                     .used_memory = Bytes(1),
                     .edge_celsius = 1,
                     .junction_celsius = 2,
                     .memory_celsius = 3,
                     .power_watts = 4}};
  sample.tls_certificate_expiry_s = 1;
  return sample;
}

TEST(MetricCatalogTest, IsExactlyWhatIsServed) {
  Metrics metrics;
  metrics.SetSampler(FullSample);
  metrics.RecordRequest(Method::kAttend, absl::StatusCode::kOk, Phase::kDecode, {});
  metrics.RecordItem(absl::StatusCode::kOk);
  metrics.RecordControl("GetStats", absl::StatusCode::kOk);

  std::set<std::string> missing;
  std::map<std::string, const MetricSpec*> specs;
  for (const MetricSpec& spec : MetricCatalog()) {
    specs[spec.name] = &spec;
    missing.insert(spec.name);
  }
  for (const prometheus::MetricFamily& family : metrics.Collect()) {
    ASSERT_TRUE(specs.contains(family.name)) << family.name << " is not in the catalogue";
    const MetricSpec& spec = *specs[family.name];
    if (!family.metric.empty()) missing.erase(family.name);
    EXPECT_EQ(family.help, spec.help);
    const auto type = spec.type == MetricType::kCounter ? prometheus::MetricType::Counter
                      : spec.type == MetricType::kGauge ? prometheus::MetricType::Gauge
                                                        : prometheus::MetricType::Histogram;
    EXPECT_EQ(family.type, type) << family.name;
    const std::vector<std::string> labels(spec.labels().begin(), spec.labels().end());
    for (const prometheus::ClientMetric& metric : family.metric) {
      std::vector<std::string> names;
      for (const auto& label : metric.label) names.push_back(label.name);
      EXPECT_THAT(names, UnorderedElementsAreArray(labels)) << family.name;
    }
  }
  EXPECT_THAT(missing, IsEmpty()) << "in the catalogue and never served";
}

}  // namespace
}  // namespace attnd
