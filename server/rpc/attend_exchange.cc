// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/attend_exchange.h"

#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/arena.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"
#include "server/observe/log.h"
#include "server/rpc/byte_buffer.h"
#include "server/rpc/convert.h"
#include "server/rpc/grpc_status.h"

namespace attnd {
namespace {

// The header of a one-token request and of its response fits; larger ones go on in the heap.
class CallArena {
 public:
  CallArena() : arena_(Options(block_)) {}
  template <typename T>
  T* New() {
    return google::protobuf::Arena::CreateMessage<T>(&arena_);
  }

 private:
  static google::protobuf::ArenaOptions Options(std::span<char> block) {
    google::protobuf::ArenaOptions options;
    options.initial_block = block.data();
    options.initial_block_size = block.size();
    return options;
  }
  alignas(8) std::array<char, 4096> block_;
  google::protobuf::Arena arena_;
};

// gRPC's own limit lies above ours, so that a message that is too large by less than that gets an
// error with details.
absl::Status CheckMessageSize(uint64_t bytes, const RequestLimits& limits) {
  if (bytes <= limits.max_message_bytes) return absl::OkStatus();
  return AttachErrorDetail(
      absl::ResourceExhaustedError(absl::StrCat("the message has ", bytes, " bytes, at most ",
                                                limits.max_message_bytes,
                                                " are received: send smaller batches")),
      {.reason = ErrorReason::kMessageTooLarge, .limit_bytes = Bytes(limits.max_message_bytes)});
}

void SetTensor(v1::DType dtype, std::initializer_list<int64_t> shape, uint64_t offset,
               v1::Tensor& tensor) {
  tensor.set_dtype(dtype);
  for (int64_t size : shape) tensor.add_shape(size);
  tensor.set_offset_bytes(offset);
}

void Clear(std::byte* output, uint64_t offset, uint64_t bytes) {
  if (offset != ItemOffsets::kNone) std::memset(output + offset, 0, bytes);
}

// Fills in one result. Where the item failed, its room in the output is cleared: staging memory has
// held other clients' tensors.
void FillResult(const WorkItem& item, const ItemOutcome& outcome, const ItemOffsets& offsets,
                std::byte* output, v1::ItemResult& result) {
  ToProto(outcome.status, *result.mutable_status());
  result.set_layer_length(outcome.layer_length);
  result.set_replayed(outcome.replayed);
  if (!outcome.status.ok()) {
    Clear(output, offsets.out, offsets.out_bytes);
    Clear(output, offsets.lse, offsets.lse_bytes);
    return;
  }
  if (offsets.out != ItemOffsets::kNone) {
    SetTensor(ToProto(item.key.q_dtype),
              {item.query_len, item.num_query_heads, item.key.head_dim_v}, offsets.out,
              *result.mutable_out());
  }
  if (offsets.lse != ItemOffsets::kNone) {
    SetTensor(v1::DTYPE_F32, {item.num_query_heads, item.query_len}, offsets.lse,
              *result.mutable_lse());
  }
}

}  // namespace

void Exchange::SetCallId(std::optional<absl::string_view> from_client) {
  if (from_client) call_id_ = RequestIdOf(from_client);
}

const std::string& Exchange::call_id() {
  if (call_id_.empty()) call_id_ = RequestIdOf(std::nullopt);
  return call_id_;
}

void Exchange::Log(const absl::Status& status, Duration duration) {
  if (!LogIsOn(CallLevel(status.code()))) return;
  LogCall({.method = method_ == Method::kAttend ? "Attend" : "FlashAttention",
           .request_id = call_id(),
           .tenant = caller_.name == nullptr ? absl::string_view() : *caller_.name,
           .code = status.code(),
           .message = status.message(),
           .duration = duration});
}

absl::Status Exchange::Refuse(absl::Status status) {
  const Duration duration = context_.clock.Now() - received_;
  context_.metrics.RecordRefused(method_, status.code(), duration);
  Log(status, duration);
  return status;
}

absl::StatusOr<std::unique_ptr<Request>> Exchange::Stage(PreparedBatch batch,
                                                         std::span<const ByteRange> tensor_data,
                                                         MonotonicTime deadline) {
  batch_ = std::move(batch);
  for (const PreparedBatch::Refused& refused : batch_.refused) {
    context_.metrics.RecordItem(refused.status.code());
  }
  if (batch_.items.empty()) return nullptr;
  auto request = std::make_unique<Request>();
  request->tenant = caller_.tenant;
  ATTND_RETURN_IF_ERROR(batch_.Stage(tensor_data, context_.staging, *request));
  request->deadline = deadline;
  request->times.received = received_;
  return request;
}

void Exchange::RecordTiming(const Request* done, v1::RequestTiming& timing) {
  const MonotonicTime now = context_.clock.Now();
  RequestTimes times{received_, now, now, now};
  if (done != nullptr) times = done->times;
  const Metrics::RequestStages stages{.stage_in = times.admitted - times.received,
                                      .queue = times.launched - times.admitted,
                                      .kernel = times.done - times.launched,
                                      .stage_out = now - times.done};
  timing.set_stage_in_ns(stages.stage_in.count());
  timing.set_queue_ns(stages.queue.count());
  timing.set_kernel_ns(stages.kernel.count());
  timing.set_stage_out_ns(stages.stage_out.count());
  context_.metrics.RecordRequest(method_, absl::StatusCode::kOk, batch_.phase, stages);
  Log(absl::OkStatus(), now - times.received);
}

absl::StatusOr<std::unique_ptr<Request>> AttendExchange::Prepare(const grpc::ByteBuffer& message,
                                                                 MonotonicTime deadline) {
  ATTND_RETURN_IF_ERROR(CheckMessageSize(message.Length(), context_.limits));
  const MessageSlices slices(message);
  const WireLimits wire_limits{.counted_field = v1::AttendRequest::kItemsFieldNumber,
                               .max_count = static_cast<uint64_t>(context_.limits.max_items)};
  ATTND_ASSIGN_OR_RETURN(const WireMessage wire,
                         SplitMessage(slices.pieces(), wire_limits, &request_id_));
  CallArena arena;
  auto* header = arena.New<v1::AttendRequest>();
  ATTND_RETURN_IF_ERROR(ParseHeader(wire, *header));
  request_id_ = header->request_id();
  const ValidationContext validation{context_.cache, context_.backend, context_.limits,
                                     caller_.tenant};
  ATTND_ASSIGN_OR_RETURN(PreparedBatch batch,
                         ValidateAttend(*header, wire.tensor_bytes, validation));
  return Stage(std::move(batch), wire.tensor_data, deadline);
}

grpc::ByteBuffer AttendExchange::Respond(std::unique_ptr<Request> done) {
  CallArena arena;
  auto* response = arena.New<v1::AttendResponse>();
  response->set_request_id(request_id_);
  response->mutable_results()->Reserve(static_cast<int>(batch_.num_items));
  std::byte* const output = done == nullptr ? nullptr : done->output.data();
  bool any_output = false;
  size_t next_refused = 0, next_item = 0;
  for (int64_t i = 0; i < batch_.num_items; ++i) {
    v1::ItemResult& result = *response->add_results();
    if (next_refused < batch_.refused.size() && batch_.refused[next_refused].index == i) {
      ToProto(batch_.refused[next_refused++].status, *result.mutable_status());
      continue;
    }
    FillResult(done->items[next_item], done->outcomes[next_item], batch_.offsets[next_item], output,
               result);
    any_output |= result.has_out();
    ++next_item;
  }
  RecordTiming(done.get(), *response->mutable_timing());
  if (!any_output) return MakeMessage(*response, StagingBuffer(), 0);
  return MakeMessage(*response, std::move(done->output), batch_.output.total_bytes());
}

grpc::ByteBuffer AttendExchange::RespondRefused(const absl::Status& status) {
  v1::AttendResponse response;
  response.set_request_id(request_id_);
  ToProto(status, *response.mutable_status());
  return MakeMessage(response, StagingBuffer(), 0);
}

absl::StatusOr<std::unique_ptr<Request>> FlashExchange::Prepare(const grpc::ByteBuffer& message,
                                                                MonotonicTime deadline) {
  ATTND_RETURN_IF_ERROR(CheckMessageSize(message.Length(), context_.limits));
  const MessageSlices slices(message);
  ATTND_ASSIGN_OR_RETURN(const WireMessage wire, SplitMessage(slices.pieces(), WireLimits{}));
  CallArena arena;
  auto* header = arena.New<v1::FlashAttentionRequest>();
  ATTND_RETURN_IF_ERROR(ParseHeader(wire, *header));
  const ValidationContext validation{context_.cache, context_.backend, context_.limits,
                                     caller_.tenant};
  ATTND_ASSIGN_OR_RETURN(PreparedBatch batch,
                         ValidateFlashAttention(*header, wire.tensor_bytes, validation));

  const v1::Tensor& q = header->q();
  const v1::Tensor& v = header->v();
  v1::Tensor& out = *response_.mutable_out();
  out = q;
  out.set_shape(q.shape_size() - 1, v.shape(v.shape_size() - 1));
  out.set_offset_bytes(0);
  if (header->options().return_lse()) {
    v1::Tensor& lse = *response_.mutable_lse();
    const bool ragged = q.shape_size() == 3;
    SetTensor(v1::DTYPE_F32, {}, batch.offsets.empty() ? 0 : batch.offsets.front().lse, lse);
    if (!ragged) lse.add_shape(q.shape(0));
    lse.add_shape(q.shape(ragged ? 1 : 2));
    lse.add_shape(q.shape(ragged ? 0 : 1));
  }
  return Stage(std::move(batch), wire.tensor_data, deadline);
}

absl::StatusOr<grpc::ByteBuffer> FlashExchange::Respond(std::unique_ptr<Request> done) {
  for (const ItemOutcome& outcome : done->outcomes) {
    if (!outcome.status.ok()) return Refuse(outcome.status);
  }
  RecordTiming(done.get(), *response_.mutable_timing());
  return MakeMessage(response_, std::move(done->output), batch_.output.total_bytes());
}

}  // namespace attnd
