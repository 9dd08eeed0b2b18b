// SPDX-License-Identifier: Apache-2.0
#include "client/cli/doctor/report.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace attnd::cli {
namespace {

struct Style {
  const char* word;   // four columns
  const char* color;  // of a terminal
  const char* name;   // in JSON
};

Style StyleOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return {"ok  ", "\x1b[32m", "ok"};
    case Verdict::kWarn:
      return {"warn", "\x1b[33m", "warn"};
    case Verdict::kFail:
      return {"FAIL", "\x1b[31m", "fail"};
    case Verdict::kUnknown:
      return {"?   ", "\x1b[36m", "unknown"};
  }
  return {"?   ", "", "unknown"};
}

}  // namespace

void Report::Add(Finding finding) {
  if (on_add_ != nullptr) on_add_(finding);
  findings_.push_back(std::move(finding));
}

void Report::Ok(std::string check, std::string found, std::string advice) {
  Add({Verdict::kOk, std::move(check), std::move(found), std::move(advice)});
}

void Report::Warn(std::string check, std::string found, std::string advice) {
  Add({Verdict::kWarn, std::move(check), std::move(found), std::move(advice)});
}

void Report::Fail(std::string check, std::string found, std::string advice) {
  Add({Verdict::kFail, std::move(check), std::move(found), std::move(advice)});
}

void Report::Unknown(std::string check, const std::string& why, std::string advice) {
  Add({Verdict::kUnknown, std::move(check), "unknown: " + why, std::move(advice)});
}

int Report::Count(Verdict verdict) const {
  return static_cast<int>(
      std::count_if(findings_.begin(), findings_.end(),
                    [verdict](const Finding& finding) { return finding.verdict == verdict; }));
}

std::string Report::Summary() const {
  return absl::StrFormat("%d failed, %d warnings, %d unknown", Count(Verdict::kFail),
                         Count(Verdict::kWarn), Count(Verdict::kUnknown));
}

nlohmann::json Report::ToJson() const {
  nlohmann::json checks = nlohmann::json::array();
  for (const Finding& finding : findings_) {
    checks.push_back({{"check", finding.check},
                      {"verdict", StyleOf(finding.verdict).name},
                      {"found", finding.found},
                      {"advice", finding.advice}});
  }
  return {{"ok", Count(Verdict::kFail) == 0},
          {"failed", Count(Verdict::kFail)},
          {"warnings", Count(Verdict::kWarn)},
          {"unknown", Count(Verdict::kUnknown)},
          {"checks", std::move(checks)}};
}

std::string ToText(const Finding& finding, bool colors) {
  const Style style = StyleOf(finding.verdict);
  const std::string word = colors ? absl::StrCat(style.color, style.word, "\x1b[0m") : style.word;
  std::string text = absl::StrFormat("%s  %-14s  %s\n", word, finding.check, finding.found);
  if (!finding.advice.empty()) {
    absl::StrAppend(&text, std::string(22, ' '), "-> ", finding.advice, "\n");
  }
  return text;
}

}  // namespace attnd::cli
