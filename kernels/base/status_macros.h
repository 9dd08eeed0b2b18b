// SPDX-License-Identifier: Apache-2.0
//
// Early return of absl::Status, the two macros that Abseil's LTS releases do not carry.
//
//   ATTND_RETURN_IF_ERROR(geometry.Validate());
//   ATTND_ASSIGN_OR_RETURN(PageLease lease, cache.Pin(ticket));
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define ATTND_RETURN_IF_ERROR(expr)                                                  \
  do {                                                                               \
    if (absl::Status attnd_status = (expr); !attnd_status.ok()) return attnd_status; \
  } while (false)

#define ATTND_ASSIGN_OR_RETURN(lhs, expr) \
  ATTND_ASSIGN_OR_RETURN_IMPL_(ATTND_CONCAT_(attnd_status_or_, __LINE__), lhs, expr)
#define ATTND_ASSIGN_OR_RETURN_IMPL_(result, lhs, expr) \
  auto result = (expr);                                 \
  if (!result.ok()) return std::move(result).status();  \
  lhs = *std::move(result)
#define ATTND_CONCAT_(a, b) ATTND_CONCAT_IMPL_(a, b)
#define ATTND_CONCAT_IMPL_(a, b) a##b
