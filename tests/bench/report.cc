// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/report.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <utility>

#include "nlohmann/json.hpp"

namespace attnd::bench {
namespace {

// What a command prints, without its last newline.
std::string Output(const char* command) {
  std::string text;
  if (FILE* pipe = popen(command, "r")) {
    char buffer[256];
    while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
    pclose(pipe);
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::string Date() {
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
  return date;
}

}  // namespace

Report::Report(std::string bench, int argc, const char* const* argv) : bench_(std::move(bench)) {
  for (int i = 0; i < argc; ++i) {
    if (i > 0) command_ += ' ';
    command_ += argv[i];
  }
  if (argc == 3 && std::strcmp(argv[1], "--json") == 0) {
    json_path_ = argv[2];
  } else if (argc != 1) {
    std::fprintf(stderr, "usage: %s [--json FILE]\n", argv[0]);
    std::exit(2);
  }
}

void Report::Add(const std::string& name, const std::string& metric, const std::string& unit,
                 double value) {
  std::printf("%-44s %-8s %12.3f %s\n", name.c_str(), metric.c_str(), value, unit.c_str());
  std::fflush(stdout);
  Keep({.name = name, .metric = metric, .unit = unit, .ours = value});
}

void Report::AddSamples(const std::string& name, const std::string& unit,
                        std::vector<double>& samples) {
  std::sort(samples.begin(), samples.end());
  Add(name, "median", unit, samples[samples.size() / 2]);
  Add(name, "p99", unit, samples[samples.size() * 99 / 100]);
}

int Report::Finish() const {
  if (json_path_.empty()) return 0;
  nlohmann::json rows = nlohmann::json::array();
  for (const Row& row : rows_) {
    const bool ceiling = row.ceiling > 0;
    const double of_ceiling =
        row.of_ceiling > 0 || !ceiling ? row.of_ceiling : row.ours / row.ceiling;
    rows.push_back({{"bench", bench_},
                    {"case", row.name},
                    {"metric", row.metric},
                    {"unit", row.unit},
                    {"ours", row.ours},
                    {"peer", nullptr},
                    {"peer_name", nullptr},
                    {"ratio", nullptr},
                    {"ceiling", ceiling ? nlohmann::json(row.ceiling) : nullptr},
                    {"of_ceiling", of_ceiling > 0 ? nlohmann::json(of_ceiling) : nullptr}});
  }
  const nlohmann::json document = {
      {"head",
       {{"hardware", Output("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1") + ", " +
                         Output("nproc") + " CPUs" + (device_.empty() ? "" : ", " + device_)},
        {"command", command_},
        {"date", Date()},
        {"commit", Output("git rev-parse --short=12 HEAD 2>/dev/null")}}},
      {"rows", rows}};
  std::ofstream file(json_path_);
  file << document.dump(1) << "\n";
  file.close();
  if (file) return 0;
  std::fprintf(stderr, "cannot write %s\n", json_path_.c_str());
  return 1;
}

}  // namespace attnd::bench
