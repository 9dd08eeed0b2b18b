// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_report.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <thread>

#include <nlohmann/json.hpp>

namespace attnd::cli {
namespace {

// The commit of the working tree that the benchmark was started in, "" outside of one.
std::string CurrentCommit() {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
      popen("git rev-parse --short=12 HEAD 2>/dev/null", "r"), pclose);
  std::array<char, 64> line{};
  if (pipe == nullptr || std::fgets(line.data(), line.size(), pipe.get()) == nullptr) return "";
  std::string commit(line.data());
  commit.erase(commit.find_last_not_of('\n') + 1);
  return commit;
}

std::string Now() {
  const std::time_t now = std::time(nullptr);
  std::array<char, 32> text{};
  std::tm utc{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
  return text.data();
}

}  // namespace

double Percentile(std::vector<double> samples, double p) {
  if (samples.empty()) return 0.0;
  const auto rank = static_cast<size_t>(std::lround(p * static_cast<double>(samples.size() - 1)));
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(rank),
                   samples.end());
  return samples[rank];
}

absl::Status BenchReport::WriteJson(const std::string& path, const std::string& about) const {
  nlohmann::json json = {{"head",
                          {{"hardware", CpuModel()},
                           {"command", command_},
                           {"date", Now()},
                           {"commit", CurrentCommit()},
                           {"daemon", about}}},
                         {"rows", nlohmann::json::array()}};
  for (const BenchRow& row : rows_) {
    nlohmann::json entry = {{"bench", bench_},      {"case", row.name}, {"metric", row.metric},
                            {"unit", row.unit},     {"ours", row.ours}, {"peer", nullptr},
                            {"peer_name", nullptr}, {"ratio", nullptr}, {"ceiling", nullptr},
                            {"of_ceiling", nullptr}};
    if (row.ceiling > 0) {
      entry["ceiling"] = row.ceiling;
      entry["of_ceiling"] = row.ours / row.ceiling;
    }
    json["rows"].push_back(entry);
  }
  std::ofstream file(path);
  file << json.dump(2) << "\n";
  file.close();
  return file.good() ? absl::OkStatus() : absl::UnavailableError("could not write " + path);
}

double MeasureReadBandwidth() {
  const size_t threads = std::max(1u, std::thread::hardware_concurrency());
  constexpr size_t kWords = (64u << 20) / sizeof(uint64_t);  // a thread's share, beyond the caches
  std::vector<std::vector<uint64_t>> buffers(threads, std::vector<uint64_t>(kWords, 1));
  std::vector<uint64_t> sums(threads);
  double best = 0;
  for (int round = 0; round < 12; ++round) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> workers;
    for (size_t t = 0; t < threads; ++t) {
      workers.emplace_back([&buffer = buffers[t], &sum = sums[t]] {
        uint64_t total = 0;
        for (const uint64_t word : buffer) total += word;
        sum += total;
      });
    }
    for (std::thread& worker : workers) worker.join();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best =
        std::max(best, static_cast<double>(threads * kWords * sizeof(uint64_t)) / elapsed.count());
  }
  // Depends on the sums, so that the loops are not optimised away.
  return sums[0] == 0 ? 0.0 : best;
}

std::string CpuModel() {
  std::ifstream info("/proc/cpuinfo");
  std::string model = "unknown CPU";
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      model = line.substr(line.find(": ") + 2);
      break;
    }
  }
  return model + ", " + std::to_string(std::thread::hardware_concurrency()) + " hardware threads";
}

}  // namespace attnd::cli
