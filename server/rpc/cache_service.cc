// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "attnd/v1/cache.grpc.pb.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"
#include "server/rpc/convert.h"
#include "server/rpc/draining.h"
#include "server/rpc/reply.h"
#include "server/rpc/services.h"

namespace attnd {
namespace {

// OK where some kernel attends over such a cache, whatever the dtype of its queries.
absl::Status CheckServed(const AttentionBackend& backend, const CacheGeometry& geometry) {
  const Capabilities& capabilities = backend.capabilities();
  const auto missing = [](absl::Status status) {
    return AttachErrorDetail(std::move(status), {.reason = ErrorReason::kCapabilityMissing});
  };
  if (geometry.page_size_tokens > capabilities.max_page_size_tokens) {
    return missing(absl::UnimplementedError(absl::StrCat("geometry.page_size_tokens ",
                                                         geometry.page_size_tokens,
                                                         ": this backend has "
                                                         "kernels for at most ",
                                                         capabilities.max_page_size_tokens)));
  }
  KernelKey key{.q_dtype = geometry.kv_dtype,
                .kv_dtype = geometry.kv_dtype,
                .head_dim_k = geometry.head_dim_k,
                .head_dim_v = geometry.head_dim_v,
                .features = {}};
  absl::Status same_dtype = backend.Supports(key);
  if (same_dtype.ok()) return same_dtype;
  for (const auto& [q, kv] : capabilities.dtypes) {
    key.q_dtype = q;
    if (kv == geometry.kv_dtype && backend.Supports(key).ok()) return absl::OkStatus();
  }
  return missing(same_dtype);
}

class CacheServiceImpl final : public v1::CacheService::CallbackService {
 public:
  explicit CacheServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* OpenCache(grpc::CallbackServerContext* call,
                                      const v1::OpenCacheRequest* request,
                                      v1::OpenCacheResponse* response) override {
    return Serve(context_, call, "OpenCache", Right::kAttend,
                 [&](const Caller& caller) { return Open(caller, *request, *response); });
  }

  grpc::ServerUnaryReactor* CloseCache(grpc::CallbackServerContext* call,
                                       const v1::CloseCacheRequest* request,
                                       v1::CloseCacheResponse*) override {
    return Serve(context_, call, "CloseCache", Right::kAttend, [&](const Caller& caller) {
      return context_.cache.CloseCache(FromProto<CacheId>(request->cache()), caller.tenant);
    });
  }

  grpc::ServerUnaryReactor* ListCaches(grpc::CallbackServerContext* call,
                                       const v1::ListCachesRequest*,
                                       v1::ListCachesResponse* response) override {
    return Serve(context_, call, "ListCaches", Right::kObserve, [&](const Caller& caller) {
      for (const CacheInfo& info : context_.cache.Stats().caches) {
        if (MaySee(caller, info.tenant)) ToProto(info, *response->add_caches());
      }
      return absl::OkStatus();
    });
  }

 private:
  absl::Status Open(const Caller& caller, const v1::OpenCacheRequest& request,
                    v1::OpenCacheResponse& response) {
    ATTND_RETURN_IF_ERROR(RefuseWhileDraining(context_.admission));
    if (request.page_quota() < 0) {
      return absl::InvalidArgumentError(absl::StrCat("page_quota: ", request.page_quota(),
                                                     ", expected at least 0 (0: no quota)"));
    }
    if (!request.has_geometry()) return absl::InvalidArgumentError("geometry is missing");
    ATTND_ASSIGN_OR_RETURN(const CacheGeometry geometry, FromProto(request.geometry()));
    ATTND_RETURN_IF_ERROR(geometry.Validate());
    ATTND_RETURN_IF_ERROR(CheckServed(context_.backend, geometry));
    ATTND_ASSIGN_OR_RETURN(
        const KvCache::OpenedCache opened,
        context_.cache.OpenCache(request.name(), geometry, PageCount(request.page_quota()),
                                 caller.tenant));
    ToProto(opened.info.cache, *response.mutable_cache());
    ToProto(opened.info, *response.mutable_info());
    response.set_created(opened.created);
    return absl::OkStatus();
  }

  const ServiceContext& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCacheService(const ServiceContext& context) {
  return std::make_unique<CacheServiceImpl>(context);
}

}  // namespace attnd
