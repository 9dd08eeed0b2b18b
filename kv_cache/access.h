// SPDX-License-Identifier: Apache-2.0
//
// Who asks the cache, and for what: the arguments that its layers hand on to each other.
// Plain values, safe from any thread.
//
//   LayerAccess access{.by = grant.ref, .sequence = id, .layer = LayerIndex(0), .write = true,
//                      .step = 1, .start_position = TokenCount(0), .num_tokens = TokenCount(5)};
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "kv_cache/ids.h"

namespace attnd {

// Positions fit 32 bits: the counters of dropout hold them.
inline constexpr int64_t kMaxSequenceTokens = int64_t{1} << 32;
inline constexpr size_t kMaxClientStateBytes = size_t{1} << 20;

// Whose an object is; 0 where callers are not told apart. See tenant_table.h.
using TenantIndex = StrongInt<struct TenantIndexTag, uint32_t>;

// Calls that name a session carry the epoch it was opened or resumed with. Who calls is known from
// elsewhere than the message; another tenant's session is not found.
struct SessionRef {
  SessionId session{};
  uint64_t epoch = 0;
  TenantIndex tenant{};
};

// What a session hands to its client: the secret exists nowhere else.
struct SessionGrant {
  SessionRef ref{};
  std::string token{};  // 16 random bytes
  Duration lease{};
};

// One item's access to one layer of a sequence; see AttendItem in attention.proto.
struct LayerAccess {
  SessionRef by{};
  SequenceId sequence{};
  LayerIndex layer{};
  bool write = false;
  uint64_t step = 0;  // writes only
  TokenCount start_position{};
  TokenCount num_tokens{};
  std::optional<TokenCount> kv_length{};  // reads only: attend over [0, kv_length)
};

}  // namespace attnd
