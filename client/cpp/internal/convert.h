// SPDX-License-Identifier: Apache-2.0
//
// Between the client's plain values and the messages of the wire contract.
//
// Pure functions, safe from any thread.
//
//   ToProto(cache.id, request.mutable_cache());
//   CacheInfo info = FromProto(response.info());
#pragma once

#include "attnd/v1/admin.pb.h"
#include "attnd/v1/attention.pb.h"
#include "attnd/v1/cache.pb.h"
#include "attnd/v1/sequence.pb.h"
#include "attnd/v1/types.pb.h"
#include "client/cpp/internal/message_writer.h"
#include "client/cpp/types.h"

namespace attnd::client {

v1::DType ToProto(DType dtype);
void ToProto(const Id& id, v1::Id* proto);
void ToProto(const CacheGeometry& geometry, v1::CacheGeometry* proto);
// The spans' bytes go to `writer`.
void ToProto(const AttentionOptions& options, int64_t query_len, MessageWriter& writer,
             v1::AttentionOptions* proto);

Id FromProto(const v1::Id& proto);
CacheGeometry FromProto(const v1::CacheGeometry& proto);
CacheInfo FromProto(const v1::CacheInfo& proto);
SequenceInfo FromProto(const v1::SequenceInfo& proto);
SessionInfo FromProto(const v1::SessionInfo& proto);
Capabilities FromProto(const v1::GetCapabilitiesResponse& proto);
Stats FromProto(const v1::GetStatsResponse& proto);
RequestTiming FromProto(const v1::RequestTiming& proto);

}  // namespace attnd::client
