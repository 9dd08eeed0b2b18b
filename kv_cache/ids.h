// SPDX-License-Identifier: Apache-2.0
//
// Names of caches, sessions and sequences that stay unique across the daemon's restarts.
//
// An id is the daemon's random boot number, a slot and the slot's generation. A stale id therefore
// never means another object: lookups answer NOT_FOUND. A slot retires before its generation wraps.
// Plain values, safe from any thread.
//
//   SequenceId id(ObjectId{.boot = boot, .slot = 7, .generation = 1});
#pragma once

#include <compare>
#include <cstdint>
#include <ostream>
#include <string>

#include "absl/strings/str_format.h"

namespace attnd {

struct ObjectId {
  uint64_t boot = 0;
  uint32_t slot = 0;
  uint32_t generation = 0;  // 0 is never given out: a default id names nothing

  friend constexpr auto operator<=>(const ObjectId&, const ObjectId&) = default;
};

// `Tag` tells the kinds apart and is never defined.
template <typename Tag>
struct TypedId {
  ObjectId object;

  TypedId() = default;
  explicit constexpr TypedId(ObjectId id) : object(id) {}

  friend constexpr auto operator<=>(const TypedId&, const TypedId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const TypedId& id) {
    return H::combine(std::move(h), id.object.boot, id.object.slot, id.object.generation);
  }
  friend std::ostream& operator<<(std::ostream& os, const TypedId& id) {
    return os << ToString(id);
  }
  // "4b1f…:7.1": the boot number's upper bits, slot and generation.
  friend std::string ToString(const TypedId& id) {
    return absl::StrFormat("%08x:%u.%u", id.object.boot >> 32, id.object.slot,
                           id.object.generation);
  }
};

using CacheId = TypedId<struct CacheIdTag>;
using SessionId = TypedId<struct SessionIdTag>;
using SequenceId = TypedId<struct SequenceIdTag>;

}  // namespace attnd
