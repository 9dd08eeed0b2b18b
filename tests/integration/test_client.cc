// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/test_client.h"

#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <utility>

#include "attnd/v1/rpc_status.pb.h"

namespace attnd {
namespace {

template <typename Response>
void Fill(const grpc::Status& status, const grpc::ClientContext& context,
          ReplyTo<Response>& reply) {
  reply.status = status;
  if (const std::optional<v1::ErrorDetail> detail = DetailOf(status)) {
    reply.has_detail = true;
    reply.detail = *detail;
  }
  for (const auto& [key, value] : context.GetServerTrailingMetadata()) {
    reply.trailers.emplace(std::string(key.data(), key.size()),
                           std::string(value.data(), value.size()));
  }
}

grpc::ByteBuffer ToBuffer(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

v1::CacheGeometry TestGeometry::Proto() {
  v1::CacheGeometry geometry;
  geometry.set_num_layers(kLayers);
  geometry.set_num_query_heads(kQueryHeads);
  geometry.set_num_kv_heads(kKvHeads);
  geometry.set_head_dim_k(kDimK);
  geometry.set_head_dim_v(kDimV);
  geometry.set_kv_dtype(v1::DTYPE_F32);
  geometry.set_page_size_tokens(kPageSize);
  return geometry;
}

Batch::Batch(const TestSession& session, uint64_t seed) : random_(seed) {
  *request_.mutable_session() = session.id;
  request_.set_epoch(session.epoch);
  request_.set_request_id(seed);
}

v1::Tensor Batch::Append(v1::DType dtype, const std::vector<int64_t>& shape, const void* data,
                         size_t bytes) {
  std::string& all = *request_.mutable_tensor_data();
  all.resize((all.size() + 63) / 64 * 64);
  v1::Tensor tensor;
  tensor.set_dtype(dtype);
  for (int64_t size : shape) tensor.add_shape(size);
  tensor.set_offset_bytes(all.size());
  all.append(static_cast<const char*>(data), bytes);
  return tensor;
}

v1::Tensor Batch::AppendRandom(const std::vector<int64_t>& shape, std::vector<float>& values) {
  std::normal_distribution<float> normal;
  values.resize(static_cast<size_t>(
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>())));
  for (float& value : values) value = normal(random_);
  return Append(v1::DTYPE_F32, shape, values.data(), values.size() * sizeof(float));
}

v1::AttendItem& Batch::Add(const ItemSpec& spec) {
  using G = TestGeometry;
  Tensors& tensors = tensors_.emplace_back();
  v1::AttendItem& item = *request_.add_items();
  *item.mutable_sequence() = spec.sequence;
  item.set_layer(spec.layer);
  item.set_step(spec.step);
  item.set_start_position(spec.start);
  if (spec.attend) {
    *item.mutable_q() = AppendRandom({spec.rows, G::kQueryHeads, G::kDimK}, tensors.q);
    item.mutable_options()->set_causal(true);
  }
  if (spec.write) {
    *item.mutable_k() = AppendRandom({spec.rows, G::kKvHeads, G::kDimK}, tensors.k);
    *item.mutable_v() = AppendRandom({spec.rows, G::kKvHeads, G::kDimV}, tensors.v);
  }
  return item;
}

std::vector<float> FloatsOf(const v1::Tensor& tensor, const std::string& tensor_data) {
  int64_t count = 1;
  for (int64_t size : tensor.shape()) count *= size;
  std::vector<float> values(static_cast<size_t>(count));
  const size_t bytes = values.size() * sizeof(float);
  EXPECT_EQ(tensor.dtype(), v1::DTYPE_F32);
  EXPECT_EQ(tensor.offset_bytes() % 64, 0u);
  if (tensor.offset_bytes() + bytes > tensor_data.size()) {
    ADD_FAILURE() << "a tensor beyond tensor_data: " << tensor.ShortDebugString();
    return {};
  }
  std::memcpy(values.data(), tensor_data.data() + tensor.offset_bytes(), bytes);
  return values;
}

namespace {

using grpc::experimental::ClientInterceptorFactoryInterface;
using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;

// gRPC's own call credentials refuse plain text; a test of plain text must not.
class AddToken final : public Interceptor {
 public:
  explicit AddToken(const std::string& token) : header_("Bearer " + token) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->insert({"authorization", header_});
    }
    methods->Proceed();
  }

 private:
  const std::string header_;
};

class AddTokens final : public ClientInterceptorFactoryInterface {
 public:
  explicit AddTokens(std::string token) : token_(std::move(token)) {}
  Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override {
    return new AddToken(token_);
  }

 private:
  const std::string token_;
};

}  // namespace

TestClient::TestClient(const std::string& address, const TestCredentials& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  std::vector<std::unique_ptr<ClientInterceptorFactoryInterface>> interceptors;
  if (!credentials.token.empty()) {
    interceptors.push_back(std::make_unique<AddTokens>(credentials.token));
  }
  channel_ = grpc::experimental::CreateCustomChannelWithInterceptors(
      address,
      credentials.channel != nullptr ? credentials.channel : grpc::InsecureChannelCredentials(),
      arguments, std::move(interceptors));
  admin = v1::AdminService::NewStub(channel_);
  attention = v1::AttentionService::NewStub(channel_);
  caches = v1::CacheService::NewStub(channel_);
  sequences = v1::SequenceService::NewStub(channel_);
  sessions = v1::SessionService::NewStub(channel_);
}

v1::Id TestClient::OpenCache(const std::string& name, int64_t page_quota) {
  grpc::ClientContext context;
  v1::OpenCacheRequest request;
  v1::OpenCacheResponse response;
  request.set_name(name);
  *request.mutable_geometry() = TestGeometry::Proto();
  request.set_page_quota(page_quota);
  const grpc::Status status = caches->OpenCache(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.cache();
}

TestSession TestClient::NewSession() {
  grpc::ClientContext context;
  v1::OpenSessionResponse response;
  const grpc::Status status = sessions->OpenSession(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return {.id = response.session(), .epoch = response.epoch(), .token = response.token()};
}

v1::Id TestClient::NewSequence(const TestSession& session, const v1::Id& cache) {
  grpc::ClientContext context;
  v1::CreateSequenceRequest request;
  v1::CreateSequenceResponse response;
  *request.mutable_session() = session.id;
  request.set_epoch(session.epoch);
  *request.mutable_cache() = cache;
  const grpc::Status status = sequences->CreateSequence(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.sequence();
}

AttendReply TestClient::Attend(const v1::AttendRequest& request) {
  grpc::ClientContext context;
  AttendReply reply;
  Fill(attention->Attend(&context, request, &reply.response), context, reply);
  return reply;
}

AttendReply TestClient::AttendRaw(const std::string& bytes) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  const grpc::ByteBuffer request = ToBuffer(bytes);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/attnd.v1.AttentionService/Attend", {}, &request, &response,
                 [&](grpc::Status status) { done.set_value(std::move(status)); });
  AttendReply reply;
  Fill(done.get_future().get(), context, reply);
  if (reply.status.ok()) {
    grpc::Slice slice;
    EXPECT_TRUE(response.DumpToSingleSlice(&slice).ok());
    EXPECT_TRUE(reply.response.ParseFromArray(slice.begin(), static_cast<int>(slice.size())));
  }
  return reply;
}

ReplyTo<v1::FlashAttentionResponse> TestClient::Flash(const v1::FlashAttentionRequest& request) {
  grpc::ClientContext context;
  ReplyTo<v1::FlashAttentionResponse> reply;
  Fill(attention->FlashAttention(&context, request, &reply.response), context, reply);
  return reply;
}

PendingAttend TestClient::StartAttend(
    const v1::AttendRequest& request,
    std::optional<std::chrono::system_clock::time_point> deadline) {
  PendingAttend pending{.context = std::make_unique<grpc::ClientContext>(),
                        .response = std::make_shared<v1::AttendResponse>(),
                        .status = {}};
  if (deadline) pending.context->set_deadline(*deadline);
  auto done = std::make_shared<std::promise<grpc::Status>>();
  pending.status = done->get_future();
  auto kept = std::make_shared<v1::AttendRequest>(request);
  attention->async()->Attend(pending.context.get(), kept.get(), pending.response.get(),
                             [done, kept, response = pending.response](grpc::Status status) {
                               done->set_value(std::move(status));
                             });
  return pending;
}  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): the callback owns what is left

grpc::Status TestClient::Truncate(const TestSession& session, const v1::Id& sequence,
                                  int64_t length) {
  grpc::ClientContext context;
  v1::TruncateSequenceRequest request;
  v1::TruncateSequenceResponse response;
  *request.mutable_session() = session.id;
  request.set_epoch(session.epoch);
  *request.mutable_sequence() = sequence;
  request.set_length(length);
  return sequences->TruncateSequence(&context, request, &response);
}

grpc::Status TestClient::Free(const TestSession& session, const v1::Id& sequence) {
  grpc::ClientContext context;
  v1::FreeSequenceRequest request;
  v1::FreeSequenceResponse response;
  *request.mutable_session() = session.id;
  request.set_epoch(session.epoch);
  *request.mutable_sequence() = sequence;
  return sequences->FreeSequence(&context, request, &response);
}

v1::SequenceInfo TestClient::Describe(const TestSession& session, const v1::Id& sequence) {
  grpc::ClientContext context;
  v1::DescribeSequenceRequest request;
  v1::DescribeSequenceResponse response;
  *request.mutable_session() = session.id;
  request.set_epoch(session.epoch);
  *request.mutable_sequence() = sequence;
  const grpc::Status status = sequences->DescribeSequence(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.sequence();
}

v1::GetStatsResponse TestClient::Stats() {
  grpc::ClientContext context;
  v1::GetStatsResponse response;
  const grpc::Status status = admin->GetStats(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

std::string TestClient::StateOf(const TestSession& session) {
  std::string state;
  {
    grpc::ClientContext context;
    v1::ListSequencesRequest request;
    v1::ListSequencesResponse response;
    *request.mutable_session() = session.id;
    request.set_epoch(session.epoch);
    const grpc::Status status = sequences->ListSequences(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    state = response.DebugString();
  }
  const v1::GetStatsResponse stats = Stats();
  for (const v1::CacheInfo& cache : stats.caches()) {
    state += cache.name() + ": used " + std::to_string(cache.pages_used()) + ", reserved " +
             std::to_string(cache.pages_reserved()) + "\n";
  }
  state += "queued " + std::to_string(stats.queued_items()) + "\n";
  grpc::ClientContext context;
  v1::CheckIntegrityResponse response;
  const grpc::Status status = admin->CheckIntegrity(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return state;
}

std::optional<v1::ErrorDetail> DetailOf(const grpc::Status& status) {
  v1::RpcStatus details;
  v1::ErrorDetail detail;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details()) ||
      details.details_size() != 1 || !details.details(0).UnpackTo(&detail)) {
    return std::nullopt;
  }
  EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
  return detail;
}

grpc::Status CallByName(const TestClient& client, const std::string& method, std::string* answer) {
  grpc::GenericStub stub(client.channel());
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  const grpc::Slice nothing("");
  const auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&nothing, 1), &queue);
  grpc::ByteBuffer response;
  grpc::Status status;
  call->StartCall();
  call->Finish(&response, &status, &queue);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  std::vector<grpc::Slice> slices;
  if (answer != nullptr && status.ok() && response.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      answer->append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  return status;
}

}  // namespace attnd
