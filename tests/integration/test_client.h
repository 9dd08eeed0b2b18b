// SPDX-License-Identifier: Apache-2.0
//
// A client that says things a well-behaved one would not: it sends the wire's messages as they are,
// so that a test can bend each field, and keeps what it sent, so that answers can be checked.
//
//   TestClient client(daemon.address());
//   TestSession session = client.NewSession();
//   v1::Id sequence = client.NewSequence(session, client.OpenCache());
//   Batch batch(session);
//   batch.Add({.sequence = sequence, .rows = 5, .step = 1});
//   Reply reply = client.Attend(batch.request());
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "attnd/v1/admin.grpc.pb.h"
#include "attnd/v1/attention.grpc.pb.h"
#include "attnd/v1/cache.grpc.pb.h"
#include "attnd/v1/sequence.grpc.pb.h"
#include "attnd/v1/session.grpc.pb.h"

namespace attnd {

struct TestSession {
  v1::Id id;
  uint64_t epoch = 0;
  std::string token;
};

// Heads 4 over 2, dims 32 and 16, so that nothing fits by accident; three layers, pages of 4
// tokens.
struct TestGeometry {
  static constexpr int kLayers = 3, kQueryHeads = 4, kKvHeads = 2, kDimK = 32, kDimV = 16;
  static constexpr int kPageSize = 4;
  static v1::CacheGeometry Proto();
};

struct ItemSpec {
  v1::Id sequence;
  int layer = 0;
  int64_t rows = 1;
  uint64_t step = 1;
  int64_t start = 0;
  bool write = true;
  bool attend = true;
};

// A request under construction, with random tensors.
class Batch {
 public:
  // What an item carries, as floats.
  struct Tensors {
    std::vector<float> q, k, v;
  };

  explicit Batch(const TestSession& session, uint64_t seed = 1);

  v1::AttendItem& Add(const ItemSpec& spec);
  // Appends raw bytes, 64-byte aligned, and describes them.
  v1::Tensor Append(v1::DType dtype, const std::vector<int64_t>& shape, const void* data,
                    size_t bytes);
  v1::AttendRequest& request() { return request_; }
  const Tensors& tensors(size_t item) const { return tensors_[item]; }

 private:
  v1::Tensor AppendRandom(const std::vector<int64_t>& shape, std::vector<float>& values);

  v1::AttendRequest request_;
  std::vector<Tensors> tensors_;
  std::mt19937_64 random_;
};

// The answer to a call: its status, what the details say, and the response.
template <typename Response>
struct ReplyTo {
  grpc::Status status;
  v1::ErrorDetail detail;
  bool has_detail = false;
  std::multimap<std::string, std::string> trailers;
  Response response;
};
using AttendReply = ReplyTo<v1::AttendResponse>;

// Elements of a tensor of a response.
std::vector<float> FloatsOf(const v1::Tensor& tensor, const std::string& tensor_data);

// A call under way.
struct PendingAttend {
  std::unique_ptr<grpc::ClientContext> context;
  std::shared_ptr<v1::AttendResponse> response;
  std::future<grpc::Status> status;
};

// How a client comes: in plain text and without a token, unless told otherwise.
struct TestCredentials {
  std::string token{};  // sent as "Bearer TOKEN" with every call
  std::shared_ptr<grpc::ChannelCredentials> channel{};
};

class TestClient {
 public:
  // A connection of its own.
  explicit TestClient(const std::string& address, const TestCredentials& credentials = {});

  v1::Id OpenCache(const std::string& name = "model", int64_t page_quota = 0);
  TestSession NewSession();
  v1::Id NewSequence(const TestSession& session, const v1::Id& cache);

  AttendReply Attend(const v1::AttendRequest& request);
  // A message that need not be one.
  AttendReply AttendRaw(const std::string& bytes);
  ReplyTo<v1::FlashAttentionResponse> Flash(const v1::FlashAttentionRequest& request);
  PendingAttend StartAttend(const v1::AttendRequest& request,
                            std::optional<std::chrono::system_clock::time_point> deadline = {});

  grpc::Status Truncate(const TestSession& session, const v1::Id& sequence, int64_t length);
  grpc::Status Free(const TestSession& session, const v1::Id& sequence);
  v1::SequenceInfo Describe(const TestSession& session, const v1::Id& sequence);
  v1::GetStatsResponse Stats();
  // Everything that a refused request must leave as it was, and proof that the cache is sound.
  std::string StateOf(const TestSession& session);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  std::unique_ptr<v1::AdminService::Stub> admin;
  std::unique_ptr<v1::AttentionService::Stub> attention;
  std::unique_ptr<v1::CacheService::Stub> caches;
  std::unique_ptr<v1::SequenceService::Stub> sequences;
  std::unique_ptr<v1::SessionService::Stub> sessions;

 private:
  std::shared_ptr<grpc::Channel> channel_;
};

// A unary call by its method's name, with an empty message; the message that comes back is
// `answer`.
grpc::Status CallByName(const TestClient& client, const std::string& method,
                        std::string* answer = nullptr);

// The ErrorDetail of a failed call, if it has one.
std::optional<v1::ErrorDetail> DetailOf(const grpc::Status& status);

}  // namespace attnd
