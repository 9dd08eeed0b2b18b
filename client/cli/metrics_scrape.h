// SPDX-License-Identifier: Apache-2.0
//
// Reads the daemon's metrics port: one HTTP GET, and the text format of Prometheus. Pure but for
// the connection; safe from any thread.
//
//   ATTND_ASSIGN_OR_RETURN(MetricSamples now, ScrapeMetrics("127.0.0.1:7451"));
//   double items = now.Sum("attnd_items_total") - before.Sum("attnd_items_total");
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace attnd::cli {

struct MetricSample {
  std::string name;  // with _bucket, _sum or _count
  std::map<std::string, std::string> labels;
  double value = 0;
};

class MetricSamples {
 public:
  static MetricSamples Parse(std::string_view text);

  // Of all samples of that name whose labels include the given ones; 0 where there is none.
  double Sum(std::string_view name, const std::map<std::string, std::string>& labels = {}) const;
  bool Has(std::string_view name) const;
  std::vector<std::string> LabelValues(std::string_view name, const std::string& label) const;
  // Cumulative counts by upper bound, summed over the other labels.
  std::map<double, double> Buckets(std::string_view histogram,
                                   const std::map<std::string, std::string>& labels) const;

 private:
  std::vector<MetricSample> samples_;
};

// The value below which a fraction `p` of what a histogram counted between two scrapes lies,
// interpolated within its bucket; NaN where nothing was counted.
double HistogramQuantile(const std::map<double, double>& before,
                         const std::map<double, double>& after, double p);

// GET http://address/metrics. UNAVAILABLE says why not.
absl::StatusOr<MetricSamples> ScrapeMetrics(const std::string& address);

}  // namespace attnd::cli
