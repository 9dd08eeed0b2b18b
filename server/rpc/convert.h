// SPDX-License-Identifier: Apache-2.0
//
// Between the messages of the wire and the daemon's own types. Pure functions, safe from any
// thread.
//
//   SequenceId id = FromProto<SequenceId>(request.sequence());
//   ToProto(id, *response.mutable_sequence());
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attnd/v1/admin.pb.h"
#include "attnd/v1/cache.pb.h"
#include "attnd/v1/sequence.pb.h"
#include "attnd/v1/types.pb.h"
#include "kernels/base/dtype.h"
#include "kv_cache/geometry.h"
#include "kv_cache/ids.h"
#include "kv_cache/kv_cache.h"

namespace attnd {

template <typename Id>
Id FromProto(const v1::Id& id) {
  return Id(ObjectId{.boot = id.boot(),
                     .slot = static_cast<uint32_t>(id.handle()),
                     .generation = static_cast<uint32_t>(id.handle() >> 32)});
}

template <typename Id>
void ToProto(const Id& id, v1::Id& proto) {
  proto.set_boot(id.object.boot);
  proto.set_handle(static_cast<uint64_t>(id.object.generation) << 32 | id.object.slot);
}

// Who asks: of any request with the fields `session` and `epoch`, by its caller.
template <typename Request>
SessionRef AskedBy(const Request& request, TenantIndex tenant) {
  return {.session = FromProto<SessionId>(request.session()),
          .epoch = request.epoch(),
          .tenant = tenant};
}

v1::DType ToProto(DType dtype);

// INVALID_ARGUMENT for a dtype that keys and values cannot have. Fills in the documented defaults;
// ranges are checked by CacheGeometry::Validate.
absl::StatusOr<CacheGeometry> FromProto(const v1::CacheGeometry& proto);
void ToProto(const CacheGeometry& geometry, v1::CacheGeometry& proto);
void ToProto(const CacheInfo& info, v1::CacheInfo& proto);
void ToProto(SequenceInfo info, v1::SequenceInfo& proto);
void ToProto(const TenantInfo& info, uint64_t refused_by_queue, v1::TenantStats& proto);
void ToProto(const SessionInfo& info, v1::SessionInfo& proto);

// Durations on the wire are whole milliseconds, rounded down: a lease never looks longer than it
// is. INVALID_ARGUMENT where `ms` is negative; what exceeds 64-bit nanoseconds becomes the longest
// duration.
absl::StatusOr<Duration> DurationFromMs(int64_t ms, absl::string_view field);
int64_t ToMs(Duration duration);

}  // namespace attnd
