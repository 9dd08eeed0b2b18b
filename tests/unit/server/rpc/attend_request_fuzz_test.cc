// SPDX-License-Identifier: Apache-2.0
//
// tests/fuzz/attend_request_fuzz.cc on mutations of valid requests, since CI has no fuzzing engine.
// Mutations are made in the message as well as in its bytes, so that many get past the parser. The
// seed is printed; ATTND_TEST_SEED takes it back.
#include "tests/fuzz/attend_request_fuzz.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "attnd/v1/attention.pb.h"
#include "server/rpc/convert.h"

namespace attnd {
namespace {

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  bool Chance(uint64_t one_in) { return random_() % one_in == 0; }
  // Small numbers mostly, and those at which arithmetic breaks.
  int64_t Number() {
    constexpr int64_t kExtremes[] = {INT64_MIN,        INT64_MAX,       -1, 0, int64_t{1} << 31,
                                     int64_t{1} << 32, int64_t{1} << 61};
    if (Chance(4)) return kExtremes[random_() % std::size(kExtremes)];
    return static_cast<int64_t>(random_() % 70);
  }
  v1::Tensor Tensor(v1::DType dtype, std::initializer_list<int64_t> shape) {
    v1::Tensor tensor;
    tensor.set_dtype(Chance(40) ? static_cast<v1::DType>(random_() % 6) : dtype);
    for (int64_t size : shape) tensor.add_shape(Chance(40) ? Number() : size);
    if (Chance(60)) tensor.add_shape(Number());
    tensor.set_offset_bytes(Chance(20) ? static_cast<uint64_t>(Number()) : random_() % 200);
    return tensor;
  }
  v1::AttentionOptions Options(int64_t rows) {
    v1::AttentionOptions options;
    options.set_causal(Chance(2));
    options.set_return_lse(Chance(2));
    if (Chance(5)) options.set_window_left(Number());
    if (Chance(5)) options.set_window_right(Number());
    if (Chance(5)) *options.mutable_alibi_slopes() = Tensor(v1::DTYPE_F32, {4});
    if (Chance(5)) *options.mutable_sinks() = Tensor(v1::DTYPE_F32, {4});
    if (Chance(5)) *options.mutable_tree_mask() = Tensor(v1::DTYPE_U8, {rows, (rows + 7) / 8});
    return options;
  }
  v1::AttendRequest Attend(const FuzzDaemon& daemon) {
    v1::AttendRequest request;
    ToProto(daemon.session().session, *request.mutable_session());
    request.set_epoch(1);
    for (int layer = 0; layer < 2; ++layer) {
      const int64_t rows = static_cast<int64_t>(random_() % 12) + 1;
      v1::AttendItem& item = *request.add_items();
      ToProto(daemon.sequence(), *item.mutable_sequence());
      item.set_layer(Chance(40) ? static_cast<int32_t>(Number()) : layer);
      item.set_step(1);
      item.set_start_position(Chance(10) ? Number() : 0);
      if (!Chance(5)) *item.mutable_q() = Tensor(v1::DTYPE_F32, {rows, 4, 8});
      if (!Chance(5)) *item.mutable_k() = Tensor(v1::DTYPE_F32, {rows, 2, 8});
      if (!Chance(5)) *item.mutable_v() = Tensor(v1::DTYPE_F32, {rows, 2, 4});
      if (Chance(8)) item.set_kv_length(Number());
      *item.mutable_options() = Options(rows);
    }
    return request;
  }
  v1::FlashAttentionRequest Flash() {
    const int64_t batch = static_cast<int64_t>(random_() % 3) + 1, sq = 3, sk = 5;
    v1::FlashAttentionRequest request;
    if (Chance(2)) {
      *request.mutable_q() = Tensor(v1::DTYPE_F16, {batch, sq, 4, 8});
      *request.mutable_k() = Tensor(v1::DTYPE_F16, {batch, sk, 2, 8});
      *request.mutable_v() = Tensor(v1::DTYPE_F16, {batch, sk, 2, 4});
    } else {
      *request.mutable_q() = Tensor(v1::DTYPE_F32, {6, 4, 8});
      *request.mutable_k() = Tensor(v1::DTYPE_F32, {8, 2, 8});
      *request.mutable_v() = Tensor(v1::DTYPE_F32, {8, 2, 4});
      for (int64_t at : {0, 2, 2, 6}) request.add_cu_seqlens_q(Chance(20) ? Number() : at);
      for (int64_t at : {0, 3, 5, 8}) request.add_cu_seqlens_k(Chance(20) ? Number() : at);
    }
    *request.mutable_options() = Options(sq);
    return request;
  }
  void MutateBytes(std::string& bytes) {
    while (Chance(2) && !bytes.empty()) {
      const size_t at = random_() % bytes.size();
      if (Chance(3)) {
        bytes.erase(at, random_() % 9);
      } else {
        bytes[at] = static_cast<char>(random_());
      }
    }
  }
  std::mt19937_64& random() { return random_; }

 private:
  std::mt19937_64 random_;
};

TEST(AttendRequestFuzzTest, NoRequestReadsOrWritesOutOfBounds) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int kInputs = 20000;
#else
  constexpr int kInputs = 60000;
#endif
  uint64_t seed = std::random_device()();
  if (const char* given = std::getenv("ATTND_TEST_SEED")) seed = std::strtoull(given, nullptr, 0);
  std::printf("ATTND_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  Mutator mutator(seed);
  FuzzDaemon daemon;
  for (int i = 0; i < kInputs; ++i) {
    const bool flash = mutator.Chance(3);
    const std::string tensors(mutator.random()() % 6000, 'x');
    std::string message;
    if (flash) {
      v1::FlashAttentionRequest request = mutator.Flash();
      request.set_tensor_data(tensors);
      message = request.SerializeAsString();
    } else {
      v1::AttendRequest request = mutator.Attend(daemon);
      request.set_tensor_data(tensors);
      message = request.SerializeAsString();
    }
    if (mutator.Chance(2)) mutator.MutateBytes(message);
    const char head = static_cast<char>((mutator.random()() & 0xfe) | (flash ? 1 : 0));
    message.insert(message.begin(), head);
    daemon.Receive(reinterpret_cast<const uint8_t*>(message.data()), message.size());
  }
}

}  // namespace
}  // namespace attnd
