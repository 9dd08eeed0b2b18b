// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/error_detail.h"

#include <string>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace attnd {

absl::Status AttachErrorDetail(absl::Status status, const ErrorDetail& detail) {
  status.SetPayload(
      kErrorDetailTypeUrl,
      absl::Cord(absl::StrFormat("%d;%d;%d;%d;%d", static_cast<int>(detail.reason),
                                 detail.retry_delay.count(), detail.needed_pages.value(),
                                 detail.free_pages.value(), detail.limit_bytes.value())));
  return status;
}

std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorDetailTypeUrl);
  if (!payload.has_value()) return std::nullopt;
  const std::string text(*payload);
  const std::vector<absl::string_view> fields = absl::StrSplit(text, ';');
  int32_t reason = 0;
  int64_t retry_delay_ns = 0, needed_pages = 0, free_pages = 0;
  uint64_t limit_bytes = 0;
  if (fields.size() != 5 || !absl::SimpleAtoi(fields[0], &reason) ||
      !absl::SimpleAtoi(fields[1], &retry_delay_ns) ||
      !absl::SimpleAtoi(fields[2], &needed_pages) || !absl::SimpleAtoi(fields[3], &free_pages) ||
      !absl::SimpleAtoi(fields[4], &limit_bytes)) {
    return std::nullopt;
  }
  if (reason < 0 || reason > static_cast<int32_t>(ErrorReason::kTenantLimit)) return std::nullopt;
  return ErrorDetail{.reason = static_cast<ErrorReason>(reason),
                     .retry_delay = Duration(retry_delay_ns),
                     .needed_pages = PageCount(needed_pages),
                     .free_pages = PageCount(free_pages),
                     .limit_bytes = Bytes(limit_bytes)};
}

}  // namespace attnd
