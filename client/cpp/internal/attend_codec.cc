// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/attend_codec.h"

#include <utility>

#include <google/protobuf/arena.h>

#include "absl/strings/str_join.h"
#include "client/cpp/internal/concat.h"
#include "client/cpp/internal/convert.h"
#include "client/cpp/internal/grpc_status.h"
#include "client/cpp/internal/item_shape.h"
#include "client/cpp/internal/message_writer.h"
#include "client/cpp/sequence.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

void AddTensor(const ConstTensor& tensor, int64_t rows, int32_t heads, int32_t dim,
               MessageWriter& writer, v1::Tensor* proto) {
  proto->set_dtype(ToProto(tensor.dtype));
  proto->add_shape(rows);
  proto->add_shape(heads);
  proto->add_shape(dim);
  proto->set_offset_bytes(writer.Append(tensor.data, tensor.size_bytes()));
}

}  // namespace

struct AttendResult::Received {
  MessageReader reader;
};

AttendResult::AttendResult() = default;
AttendResult::~AttendResult() = default;
AttendResult::AttendResult(AttendResult&&) noexcept = default;
AttendResult& AttendResult::operator=(AttendResult&&) noexcept = default;

absl::Status AttendResult::first_error() const {
  for (size_t i = 0; i < items_.size(); ++i) {
    const absl::Status& status = items_[i].status;
    if (!status.ok()) {
      return {status.code(), Concat("items[", i, "]: ", status.message())};
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMessageBytes(uint64_t bytes, const Capabilities& capabilities) {
  const uint64_t limit = capabilities.max_message_bytes;
  if (limit == 0 || bytes <= limit) return absl::OkStatus();
  absl::Status status = absl::ResourceExhaustedError(Concat(
      "the request has ", bytes, " bytes; the daemon takes ", limit, " in one message: split it"));
  SetErrorDetail(status, {.reason = ErrorReason::kMessageTooLarge, .limit_bytes = limit});
  return status;
}

absl::StatusOr<AttendCodec::Request> AttendCodec::Encode(const SessionState& session,
                                                         std::span<const AttendItem> items,
                                                         uint64_t request_id) {
  if (items.empty()) return absl::InvalidArgumentError("items is empty; expected at least 1");
  // All checks come first: a request that is not sent takes no step.
  std::vector<Output> outputs;
  outputs.reserve(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const AttendItem& item = items[i];
    const std::string name = Concat("items[", i, "]");
    if (item.sequence == nullptr || !item.sequence->valid()) {
      return absl::InvalidArgumentError(Concat(name, ".sequence is not given"));
    }
    const SequenceState& sequence = *item.sequence->state_;
    if (sequence.session->id != session.id) {
      return absl::InvalidArgumentError(Concat(name, ".sequence is of another session"));
    }
    const CacheGeometry& geometry = sequence.cache.geometry;
    ATTND_ASSIGN_OR_RETURN(const int64_t rows, CheckItem(item, geometry, name));
    outputs.push_back({.rows = item.q.given() ? rows : 0,
                       .num_query_heads = geometry.num_query_heads,
                       .head_dim_v = geometry.value_dim(),
                       .dtype = item.q.dtype,
                       .out = item.out,
                       .lse = item.lse});
  }

  google::protobuf::Arena arena;
  auto* request = google::protobuf::Arena::CreateMessage<v1::AttendRequest>(&arena);
  request->set_request_id(request_id);
  ToProto(session.id, request->mutable_session());
  request->set_epoch(session.epoch);
  MessageWriter writer;
  for (const AttendItem& item : items) {
    SequenceState& sequence = *item.sequence->state_;
    const CacheGeometry& geometry = sequence.cache.geometry;
    v1::AttendItem* proto = request->add_items();
    ToProto(sequence.id, proto->mutable_sequence());
    proto->set_layer(item.layer);
    proto->set_start_position(item.start_position);
    int64_t rows = 0;
    if (item.q.given()) {
      rows = item.q.num_elems / (geometry.num_query_heads * geometry.head_dim_k);
      AddTensor(item.q, rows, geometry.num_query_heads, geometry.head_dim_k, writer,
                proto->mutable_q());
    }
    if (item.k.given()) {
      rows = item.k.num_elems / (geometry.num_kv_heads * geometry.head_dim_k);
      proto->set_step(sequence.TakeStep(item.layer, item.step));
      AddTensor(item.k, rows, geometry.num_kv_heads, geometry.head_dim_k, writer,
                proto->mutable_k());
      AddTensor(item.v, rows, geometry.num_kv_heads, geometry.value_dim(), writer,
                proto->mutable_v());
    }
    ToProto(item.options, rows, writer, proto->mutable_options());
    if (item.kv_length) proto->set_kv_length(*item.kv_length);
  }
  Request result;
  result.message = writer.Finish(*request);
  result.guard = writer.guard();
  result.outputs = std::move(outputs);
  ATTND_RETURN_IF_ERROR(
      CheckMessageBytes(result.message.size_bytes(), session.connection->capabilities));
  return result;
}

absl::StatusOr<AttendCodec::Response> AttendCodec::Parse(const grpc::ByteBuffer& bytes) {
  Response response;
  ATTND_RETURN_IF_ERROR(response.reader.Parse(bytes, &response.header));
  return response;
}

absl::Status AttendCodec::RefusalOf(const Response& response) {
  return FromItemStatus(response.header.status());
}

absl::StatusOr<AttendResult> AttendCodec::Finish(Response response,
                                                 std::span<const Output> outputs) {
  ATTND_RETURN_IF_ERROR(RefusalOf(response));
  const v1::AttendResponse& header = response.header;
  if (static_cast<size_t>(header.results_size()) != outputs.size()) {
    return absl::InternalError(Concat("the daemon answered ", outputs.size(), " items with ",
                                      header.results_size(), " results"));
  }
  AttendResult result;
  result.timing_ = FromProto(header.timing());
  result.received_ = std::make_unique<AttendResult::Received>();
  result.items_.reserve(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const v1::ItemResult& proto = header.results(static_cast<int>(i));
    const Output& output = outputs[i];
    AttendItemResult& item = result.items_.emplace_back();
    item.status = FromItemStatus(proto.status());
    item.layer_length = proto.layer_length();
    item.replayed = proto.replayed();
    if (!item.status.ok() || output.rows == 0) continue;
    ATTND_ASSIGN_OR_RETURN(item.out,
                           ReceiveTensor(proto.out(), output.dtype,
                                         {output.rows, output.num_query_heads, output.head_dim_v},
                                         output.out, response.reader));
    if (proto.has_lse()) {
      ATTND_ASSIGN_OR_RETURN(
          item.lse, ReceiveTensor(proto.lse(), DType::kF32, {output.num_query_heads, output.rows},
                                  output.lse, response.reader));
    }
  }
  result.received_->reader = std::move(response.reader);
  return result;
}

absl::StatusOr<TensorView> ReceiveTensor(const v1::Tensor& tensor, DType dtype,
                                         const absl::InlinedVector<int64_t, 4>& shape,
                                         const MutableTensor& destination, MessageReader& reader) {
  if (tensor.dtype() != ToProto(dtype) ||
      !std::equal(shape.begin(), shape.end(), tensor.shape().begin(), tensor.shape().end())) {
    return absl::InternalError(Concat("the daemon answered with a tensor of shape [",
                                      absl::StrJoin(tensor.shape(), ", "), "] and ",
                                      v1::DType_Name(tensor.dtype()), "; expected [",
                                      absl::StrJoin(shape, ", "), "] and ", Name(dtype)));
  }
  TensorView view{.dtype = dtype, .data = destination.data, .shape = shape};
  const uint64_t size_bytes = static_cast<uint64_t>(view.num_elems()) * SizeOf(dtype);
  if (destination.given()) {
    ATTND_RETURN_IF_ERROR(reader.CopyTo(tensor.offset_bytes(), size_bytes, destination.data));
  } else {
    ATTND_ASSIGN_OR_RETURN(view.data,
                           reader.View(tensor.offset_bytes(), size_bytes, SizeOf(dtype)));
  }
  return view;
}

}  // namespace attnd::client
