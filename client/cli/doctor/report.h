// SPDX-License-Identifier: Apache-2.0
//
// What the checks of `attnctl doctor` found, in their order, for a terminal or as JSON.
//
// "Unknown" is for a question that the machine does not answer: `found` says why. It counts neither
// as a warning nor as a failure. Not thread-safe.
//
//   Report report;
//   report.Warn("clocks", "GPU 0 is held at its lowest level", "echo auto > ...");
//   std::cout << report.ToText(/*colors=*/false);
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace attnd::cli {

enum class Verdict { kOk, kWarn, kFail, kUnknown };

struct Finding {
  Verdict verdict = Verdict::kOk;
  std::string check{};   // "vram"
  std::string found{};   // what is there
  std::string advice{};  // what to do; empty where there is nothing to do
};

class Report {
 public:
  // `on_add` is called with each finding as it comes.
  explicit Report(std::function<void(const Finding&)> on_add = nullptr)
      : on_add_(std::move(on_add)) {}

  void Ok(std::string check, std::string found, std::string advice = "");
  void Warn(std::string check, std::string found, std::string advice = "");
  void Fail(std::string check, std::string found, std::string advice = "");
  // Says "unknown: " before `why`.
  void Unknown(std::string check, const std::string& why, std::string advice = "");

  const std::vector<Finding>& findings() const { return findings_; }
  int Count(Verdict verdict) const;
  std::string Summary() const;  // "1 failed, 2 warnings, 3 unknown"
  // {"ok": true, "failed": 0, "warnings": 2, "unknown": 1, "checks": [{"check", "verdict", ...}]}
  nlohmann::json ToJson() const;

 private:
  void Add(Finding finding);

  std::function<void(const Finding&)> on_add_;
  std::vector<Finding> findings_;
};

// One or two lines: the verdict, the check and what it found; then the advice.
std::string ToText(const Finding& finding, bool colors);

}  // namespace attnd::cli
