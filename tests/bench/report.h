// SPDX-License-Identifier: Apache-2.0
//
// What a benchmark found: a table on the terminal, and with `--json FILE` the rows that DESIGN.md
// gives under "Evidence", below a head with hardware, command, date and commit.
//
// One thread.
//
//   Report report("scheduler", argc, argv);        // exits on flags that it does not know
//   report.Add("hot, dense", "median", "us", 1.9);
//   return report.Finish();
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace attnd::bench {

class Report {
 public:
  Report(std::string bench, int argc, const char* const* argv);

  struct Row {
    std::string name, metric, unit;
    double ours = 0;
    double ceiling = 0;     // 0: none was measured
    double of_ceiling = 0;  // 0: ours / ceiling; else what samples in turn say
  };

  // Keeps a row for the file: for a benchmark that prints a table of its own.
  void Keep(Row row) { rows_.push_back(std::move(row)); }
  // Keeps the row and prints it at once.
  void Add(const std::string& name, const std::string& metric, const std::string& unit,
           double value);
  // `samples` are sorted in place; adds their median and 99th percentile.
  void AddSamples(const std::string& name, const std::string& unit, std::vector<double>& samples);
  // What ran beside the CPU and its cores: "cpu: 2 threads, AVX3".
  void SetDevice(std::string device) { device_ = std::move(device); }
  // Writes the file, where one is wanted. The program's exit status.
  int Finish() const;

 private:
  std::string bench_, command_, json_path_, device_;
  std::vector<Row> rows_;
};

}  // namespace attnd::bench
