// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/flash_codec.h"

#include <utility>

#include "client/cpp/internal/attend_codec.h"
#include "client/cpp/internal/convert.h"
#include "client/cpp/internal/item_shape.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

void AddTensor(const ConstTensor& tensor, const FlashCodec::Shape& shape, MessageWriter& writer,
               v1::Tensor* proto) {
  proto->set_dtype(ToProto(tensor.dtype));
  for (int64_t size : shape) proto->add_shape(size);
  proto->set_offset_bytes(writer.Append(tensor.data, tensor.size_bytes()));
}

}  // namespace

struct FlashAttentionResult::Received {
  MessageReader reader;
};

FlashAttentionResult::FlashAttentionResult() = default;
FlashAttentionResult::~FlashAttentionResult() = default;
FlashAttentionResult::FlashAttentionResult(FlashAttentionResult&&) noexcept = default;
FlashAttentionResult& FlashAttentionResult::operator=(FlashAttentionResult&&) noexcept = default;

absl::StatusOr<FlashCodec::Request> FlashCodec::Encode(const FlashAttentionArgs& args,
                                                       const Capabilities& capabilities) {
  ATTND_ASSIGN_OR_RETURN(const FlashRows rows, CheckFlash(args));
  const int64_t dim_v = args.head_dim_v == 0 ? args.head_dim_k : args.head_dim_v;
  // [rows..., heads, dim], where the rows are two dimensions or one.
  const auto shape = [&args](int64_t total, int64_t length, int64_t heads, int64_t dim) -> Shape {
    if (args.ragged()) return {total, heads, dim};
    return {args.batch, length, heads, dim};
  };

  v1::FlashAttentionRequest request;
  MessageWriter writer;
  AddTensor(args.q, shape(rows.query_rows, args.query_len, args.num_query_heads, args.head_dim_k),
            writer, request.mutable_q());
  AddTensor(args.k, shape(rows.key_rows, args.key_len, args.num_kv_heads, args.head_dim_k), writer,
            request.mutable_k());
  AddTensor(args.v, shape(rows.key_rows, args.key_len, args.num_kv_heads, dim_v), writer,
            request.mutable_v());
  for (int64_t offset : args.cu_seqlens_q) request.add_cu_seqlens_q(offset);
  for (int64_t offset : args.cu_seqlens_k) request.add_cu_seqlens_k(offset);
  ToProto(args.options, args.query_len, writer, request.mutable_options());

  Request result;
  result.outputs = {
      .dtype = args.q.dtype,
      .out_shape = shape(rows.query_rows, args.query_len, args.num_query_heads, dim_v),
      .lse_shape = args.ragged() ? Shape{args.num_query_heads, rows.query_rows}
                                 : Shape{args.batch, args.num_query_heads, args.query_len},
      .out = args.out,
      .lse = args.lse};
  result.message = writer.Finish(request);
  result.guard = writer.guard();
  ATTND_RETURN_IF_ERROR(CheckMessageBytes(result.message.size_bytes(), capabilities));
  return result;
}

absl::StatusOr<FlashAttentionResult> FlashCodec::Finish(const grpc::ByteBuffer& bytes,
                                                        const Outputs& outputs) {
  v1::FlashAttentionResponse header;
  FlashAttentionResult result;
  result.received_ = std::make_unique<FlashAttentionResult::Received>();
  MessageReader& reader = result.received_->reader;
  ATTND_RETURN_IF_ERROR(reader.Parse(bytes, &header));
  result.timing_ = FromProto(header.timing());
  ATTND_ASSIGN_OR_RETURN(result.out_, ReceiveTensor(header.out(), outputs.dtype, outputs.out_shape,
                                                    outputs.out, reader));
  if (header.has_lse()) {
    ATTND_ASSIGN_OR_RETURN(result.lse_, ReceiveTensor(header.lse(), DType::kF32, outputs.lse_shape,
                                                      outputs.lse, reader));
  }
  return result;
}

}  // namespace attnd::client
