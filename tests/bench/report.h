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
#include <vector>

namespace attnd::bench {

class Report {
 public:
  Report(std::string bench, int argc, const char* const* argv);

  // Prints the row at once.
  void Add(const std::string& name, const std::string& metric, const std::string& unit,
           double value);
  // `samples` are sorted in place; adds their median and 99th percentile.
  void AddSamples(const std::string& name, const std::string& unit, std::vector<double>& samples);
  // Writes the file, where one is wanted. The program's exit status.
  int Finish() const;

 private:
  struct Row {
    std::string name, metric, unit;
    double value = 0;
  };

  std::string bench_, command_, json_path_;
  std::vector<Row> rows_;
};

}  // namespace attnd::bench
