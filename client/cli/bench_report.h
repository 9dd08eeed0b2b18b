// SPDX-License-Identifier: Apache-2.0
//
// What a benchmark measured, as a table and as evidence rows for other tools.
//
// The JSON is {"head": {hardware, command, date, commit, ...}, "rows": [{bench, case, metric, unit,
// ours, peer, peer_name, ratio, ceiling, of_ceiling}, ...]}; what was not measured is null. Not
// thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace attnd::cli {

// The value below which the fraction `p` of the samples lies; 0 without samples.
double Percentile(std::vector<double> samples, double p);

struct BenchRow {
  std::string name;  // the case
  std::string metric;
  std::string unit;
  double ours = 0;
  double ceiling = 0;  // 0: none was measured
};

class BenchReport {
 public:
  BenchReport(std::string bench, std::string command)
      : bench_(std::move(bench)), command_(std::move(command)) {}

  void Add(BenchRow row) { rows_.push_back(std::move(row)); }
  // `about` names the daemon: version, backend, device.
  absl::Status WriteJson(const std::string& path, const std::string& about) const;

 private:
  std::string bench_;
  std::string command_;
  std::vector<BenchRow> rows_;
};

// Bytes per second that all cores together read from memory: the ceiling of decode attention, as
// far as its keys and values do not fit the caches. The best of several rounds; other load lowers
// it.
double MeasureReadBandwidth();

std::string CpuModel();  // of this machine, with its number of cores

}  // namespace attnd::cli
