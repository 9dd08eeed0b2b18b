// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "attnd/v1/attention.grpc.pb.h"
#include "kernels/attention/capabilities.h"
#include "kv_cache/geometry.h"
#include "server/rpc/attention_calls.h"
#include "server/rpc/convert.h"
#include "server/rpc/reply.h"
#include "server/rpc/services.h"

namespace attnd {
namespace {

// The methods that carry tensors are raw: their messages are handled as slices; see wire.h.
using AttentionServiceBase = v1::AttentionService::WithCallbackMethod_GetCapabilities<
    v1::AttentionService::WithRawCallbackMethod_Attend<
        v1::AttentionService::WithRawCallbackMethod_AttendStream<
            v1::AttentionService::WithRawCallbackMethod_FlashAttention<
                v1::AttentionService::Service>>>>;

class AttentionServiceImpl final : public AttentionServiceBase {
 public:
  explicit AttentionServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetCapabilities(grpc::CallbackServerContext* call,
                                            const v1::GetCapabilitiesRequest* request,
                                            v1::GetCapabilitiesResponse* response) override;

  grpc::ServerUnaryReactor* Attend(grpc::CallbackServerContext* call,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override {
    return StartAttend(context_, call, request, response);
  }
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AttendStream(
      grpc::CallbackServerContext* call) override {
    return StartAttendStream(context_, call);
  }
  grpc::ServerUnaryReactor* FlashAttention(grpc::CallbackServerContext* call,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) override {
    return StartFlashAttention(context_, call, request, response);
  }

 private:
  void Fill(v1::GetCapabilitiesResponse& response) const;

  const ServiceContext& context_;
};

grpc::ServerUnaryReactor* AttentionServiceImpl::GetCapabilities(
    grpc::CallbackServerContext* call, const v1::GetCapabilitiesRequest*,
    v1::GetCapabilitiesResponse* response) {
  return Serve(context_, call, "GetCapabilities", Right::kObserve, [&](const Caller&) {
    Fill(*response);
    return absl::OkStatus();
  });
}

void AttentionServiceImpl::Fill(v1::GetCapabilitiesResponse& response) const {
  const Capabilities& capabilities = context_.backend.capabilities();
  response.set_version(context_.version);
  response.set_backend(capabilities.backend);
  response.set_isa(capabilities.isa);
  response.set_device(context_.devices.front().device->info().name);
  for (const auto& [q, kv] : capabilities.dtypes) {
    v1::DTypePair& pair = *response.add_dtypes();
    pair.set_q(ToProto(q));
    pair.set_kv(ToProto(kv));
  }
  for (const auto& [k, v] : capabilities.head_dims) {
    v1::HeadDimPair& pair = *response.add_head_dims();
    pair.set_k(k);
    pair.set_v(v);
  }
  response.set_any_head_dim(capabilities.any_head_dims);
  response.set_max_head_dim(capabilities.max_head_dim);
  response.set_max_page_size_tokens(
      std::min<int64_t>(capabilities.max_page_size_tokens, kMaxPageSizeTokens));
  for (Feature feature : kAllFeatures) {
    if (capabilities.features.Has(feature)) response.add_features(std::string(Name(feature)));
  }
  response.set_max_items_per_request(context_.limits.max_items);
  response.set_max_tokens_per_request(context_.limits.max_tokens);
  response.set_max_message_bytes(context_.limits.max_message_bytes);
}

}  // namespace

std::unique_ptr<grpc::Service> MakeAttentionService(const ServiceContext& context) {
  return std::make_unique<AttentionServiceImpl>(context);
}

std::vector<std::unique_ptr<grpc::Service>> MakeServices(const ServiceContext& context) {
  std::vector<std::unique_ptr<grpc::Service>> services;
  services.push_back(MakeAdminService(context));
  services.push_back(MakeAttentionService(context));
  services.push_back(MakeCacheService(context));
  services.push_back(MakeSequenceService(context));
  services.push_back(MakeSessionService(context));
  return services;
}

}  // namespace attnd
