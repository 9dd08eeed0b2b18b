// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/sequence.h"

#include <utility>

#include "attnd/v1/sequence.pb.h"
#include "client/cpp/internal/connection.h"
#include "client/cpp/internal/convert.h"
#include "client/cpp/internal/methods.h"
#include "client/cpp/internal/state.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

// A request with the three fields that all of these methods start with.
template <typename Request>
Request RequestFor(const SequenceState& state) {
  Request request;
  ToProto(state.session->id, request.mutable_session());
  request.set_epoch(state.session->epoch);
  ToProto(state.id, request.mutable_sequence());
  return request;
}

absl::Status CheckValid(const std::shared_ptr<SequenceState>& state) {
  return state != nullptr ? absl::OkStatus()
                          : absl::FailedPreconditionError("this Sequence was never created");
}

}  // namespace

const Id& Sequence::id() const { return state_->id; }
const CacheGeometry& Sequence::geometry() const { return state_->cache.geometry; }

int64_t Sequence::matched_tokens() const { return state_->matched_tokens; }

absl::StatusOr<int64_t> Sequence::Publish(std::span<const std::string> keys, int64_t first_page,
                                          const CallOptions& call) const {
  ATTND_RETURN_IF_ERROR(CheckValid(state_));
  auto request = RequestFor<v1::PublishPrefixRequest>(*state_);
  request.set_first_page(first_page);
  request.mutable_keys()->Add(keys.begin(), keys.end());
  v1::PublishPrefixResponse response;
  ATTND_RETURN_IF_ERROR(
      state_->session->connection->Call(kPublishPrefix, request, &response, Repeat::kAlways, call));
  return response.pages();
}

absl::StatusOr<Sequence> Sequence::Fork(std::optional<int64_t> length,
                                        const CallOptions& call) const {
  ATTND_RETURN_IF_ERROR(CheckValid(state_));
  auto request = RequestFor<v1::ForkSequenceRequest>(*state_);
  if (length) request.set_length(*length);
  v1::ForkSequenceResponse response;
  ATTND_RETURN_IF_ERROR(state_->session->connection->Call(kForkSequence, request, &response,
                                                          Repeat::kOnlyIfRefused, call));
  return Sequence(std::make_shared<SequenceState>(state_->session, FromProto(response.sequence()),
                                                  state_->cache));
}

absl::Status Sequence::Truncate(int64_t length, const CallOptions& call) const {
  ATTND_RETURN_IF_ERROR(CheckValid(state_));
  auto request = RequestFor<v1::TruncateSequenceRequest>(*state_);
  request.set_length(length);
  v1::TruncateSequenceResponse response;
  return state_->session->connection->Call(kTruncateSequence, request, &response, Repeat::kAlways,
                                           call);
}

absl::Status Sequence::Free(const CallOptions& call) const {
  ATTND_RETURN_IF_ERROR(CheckValid(state_));
  const auto request = RequestFor<v1::FreeSequenceRequest>(*state_);
  v1::FreeSequenceResponse response;
  return state_->session->connection->Call(kFreeSequence, request, &response,
                                           Repeat::kOnlyIfRefused, call);
}

absl::StatusOr<SequenceInfo> Sequence::Describe(const CallOptions& call) const {
  ATTND_RETURN_IF_ERROR(CheckValid(state_));
  const auto request = RequestFor<v1::DescribeSequenceRequest>(*state_);
  v1::DescribeSequenceResponse response;
  ATTND_RETURN_IF_ERROR(state_->session->connection->Call(kDescribeSequence, request, &response,
                                                          Repeat::kAlways, call));
  return FromProto(response.sequence());
}

absl::StatusOr<uint64_t> Sequence::SetClientState(uint64_t expected_version, std::string_view state,
                                                  const CallOptions& call) const {
  ATTND_RETURN_IF_ERROR(CheckValid(state_));
  auto request = RequestFor<v1::SetClientStateRequest>(*state_);
  request.set_expected_version(expected_version);
  request.set_client_state(std::string(state));
  v1::SetClientStateResponse response;
  ATTND_RETURN_IF_ERROR(state_->session->connection->Call(kSetClientState, request, &response,
                                                          Repeat::kOnlyIfRefused, call));
  return response.version();
}

}  // namespace attnd::client
