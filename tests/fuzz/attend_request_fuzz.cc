// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer: no bytes that a client may send as an Attend or FlashAttention make the daemon read or
// write out of bounds on the way to the kernels.
//
// The first byte of an input picks the method and how the rest is cut into pieces; the rest is the
// message. What validation lets through is staged, and every byte that a kernel would read is read,
// every byte that it would write is written. The unit tests run it on mutations of valid requests
// (tests/unit/server/rpc/attend_request_fuzz_test.cc); for a real run link this file with
// -fsanitize=fuzzer,address,undefined and attnd_server_rpc.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/clock.h"
#include "server/rpc/validate.h"
#include "tests/fuzz/attend_request_fuzz.h"

namespace attnd {
namespace {

// Staging buffers are pooled and larger than asked for, so that the address sanitizer alone does
// not see every step beyond an end: each range is held against the size that was asked for, too.
void Require(bool inside) {
  if (!inside) std::abort();
}

bool Inside(const StagingBuffer& buffer, const void* data, uint64_t bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  return begin >= buffer.data() && bytes <= buffer.size().value() &&
         begin <= buffer.data() + (buffer.size().value() - bytes);
}

volatile uint64_t g_sink;  // so that no read is optimised away

void Read(const StagingBuffer& input, const void* data, uint64_t bytes, size_t alignment) {
  if (data == nullptr) return;
  Require(Inside(input, data, bytes));
  Require(reinterpret_cast<uintptr_t>(data) % alignment == 0);
  uint64_t sum = 0;
  for (uint64_t i = 0; i < bytes; ++i) sum += static_cast<const uint8_t*>(data)[i];
  g_sink = sum;
}

// One row of out, or one element of lse.
void Write(const StagingBuffer& output, void* data, uint64_t bytes) {
  Require(Inside(output, data, bytes));
  std::memset(data, 1, bytes);
}

void Touch(const Request& request, const WorkItem& item) {
  const uint64_t element = SizeOf(item.key.q_dtype);
  const StagingBuffer& input = request.input;
  const auto read = [&](const void* data, int64_t rows, int64_t heads, int64_t dim) {
    Read(input, data, static_cast<uint64_t>(rows * heads * dim) * element, element);
  };
  const int64_t keys = item.access ? item.query_len : item.dense_kv_len;
  read(item.q, item.query_len, item.num_query_heads, item.key.head_dim_k);
  read(item.k, keys, item.num_kv_heads, item.key.head_dim_k);
  read(item.v, keys, item.num_kv_heads, item.key.head_dim_v);
  const ScoreOptions& options = item.options;
  const uint64_t per_head = static_cast<uint64_t>(item.num_query_heads) * sizeof(float);
  Read(input, options.alibi_slopes, per_head, sizeof(float));
  Read(input, options.sinks, per_head, sizeof(float));
  Read(input, options.tree_mask, static_cast<uint64_t>(item.query_len * ((item.query_len + 7) / 8)),
       1);
  for (int64_t t = 0; t < item.query_len; ++t) {
    for (int64_t h = 0; h < item.num_query_heads; ++h) {
      if (item.out.data != nullptr) {
        const int64_t at = t * item.out.token_stride_elems + h * item.out.head_stride_elems;
        Write(request.output,
              static_cast<std::byte*>(item.out.data) + at * static_cast<int64_t>(element),
              static_cast<uint64_t>(item.key.head_dim_v) * element);
      }
      if (item.lse.data != nullptr) {
        const int64_t at = t * item.lse.token_stride_elems + h * item.lse.head_stride_elems;
        Write(request.output, item.lse.data + at, sizeof(float));
      }
    }
  }
}

void TouchAll(absl::StatusOr<PreparedBatch> batch, const WireMessage& wire, Staging& staging) {
  if (!batch.ok()) return;
  Request request;
  if (!batch->Stage(wire.tensor_data, staging, request).ok()) return;
  for (const WorkItem& item : request.items) Touch(request, item);
}

}  // namespace

FuzzDaemon::FuzzDaemon()
    : pool_(static_cast<std::byte*>(std::aligned_alloc(kSuperblockBytes.value(), 4u << 20))),
      cache_({pool_, 4u << 20}, {.boot = 7}, Clock::Real()) {
  const CacheGeometry geometry{.num_layers = 2,
                               .num_query_heads = 4,
                               .num_kv_heads = 2,
                               .head_dim_k = 8,
                               .head_dim_v = 4,
                               .kv_dtype = DType::kF32,
                               .page_size_tokens = 4};
  const auto opened = cache_.OpenCache("fuzz", geometry, PageCount(0));
  session_ = cache_.OpenSession(std::chrono::hours(1), "")->ref;
  sequence_ = *cache_.CreateSequence(session_, opened->info.cache, "");
}

FuzzDaemon::~FuzzDaemon() { std::free(pool_); }

void FuzzDaemon::Receive(const uint8_t* data, size_t size) {
  if (size == 0) return;
  const uint8_t head = data[0];
  // Each piece is memory of its own, so that a read beyond its end is seen.
  const size_t piece_bytes = static_cast<size_t>(head >> 1) * 4 + 1;
  std::vector<std::vector<char>> owned;
  std::vector<ByteRange> pieces;
  for (size_t at = 1; at < size; at += piece_bytes) {
    owned.emplace_back(data + at, data + std::min(size, at + piece_bytes));
  }
  pieces.reserve(owned.size());
  for (const std::vector<char>& piece : owned) pieces.emplace_back(piece.data(), piece.size());

  const absl::StatusOr<WireMessage> wire =
      SplitMessage(pieces, {.counted_field = 4, .max_count = 64});
  if (!wire.ok()) return;
  const ValidationContext context{cache_, platform_.backend(), limits_};
  if (head % 2 == 0) {
    v1::AttendRequest header;
    if (!ParseHeader(*wire, header).ok()) return;
    TouchAll(ValidateAttend(header, wire->tensor_bytes, context), *wire, staging_);
  } else {
    v1::FlashAttentionRequest header;
    if (!ParseHeader(*wire, header).ok()) return;
    TouchAll(ValidateFlashAttention(header, wire->tensor_bytes, context), *wire, staging_);
  }
}

}  // namespace attnd

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static attnd::FuzzDaemon daemon;
  daemon.Receive(data, size);
  return 0;
}
