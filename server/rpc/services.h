// SPDX-License-Identifier: Apache-2.0
//
// The gRPC services, one file each; see the comments of proto/attnd/v1 for what they promise.
//
// Thread-safe. Services borrow the context, which outlives them; a call that waits for the
// scheduler holds no thread.
//
//   for (auto& service : MakeServices(context)) builder.RegisterService(service.get());
#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>
#include <vector>

#include "server/rpc/service_context.h"

namespace attnd {

std::unique_ptr<grpc::Service> MakeAdminService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeAttentionService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeCacheService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeSequenceService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeSessionService(const ServiceContext& context);

std::vector<std::unique_ptr<grpc::Service>> MakeServices(const ServiceContext& context);

}  // namespace attnd
