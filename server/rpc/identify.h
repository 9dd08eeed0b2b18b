// SPDX-License-Identifier: Apache-2.0
//
// Who makes a call, by its metadata. Thread-safe.
//
//   ATTND_ASSIGN_OR_RETURN(Caller caller, Identify(context, *call, Right::kAttend));
#pragma once

#include <grpcpp/server_context.h>

#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status_macros.h"
#include "server/rpc/service_context.h"
#include "server/security/tenant_registry.h"

namespace attnd {

// The first value of a header; nothing where the call has none.
inline std::optional<absl::string_view> HeaderOf(const grpc::CallbackServerContext& call,
                                                 const char* name) {
  const auto& metadata = call.client_metadata();
  const auto found = metadata.find(name);
  if (found == metadata.end()) return std::nullopt;
  return absl::string_view(found->second.data(), found->second.size());
}

// UNAUTHENTICATED without a good token, PERMISSION_DENIED where its role lacks the right.
inline absl::StatusOr<Caller> Identify(const ServiceContext& context,
                                       const grpc::CallbackServerContext& call, Right right) {
  absl::StatusOr<Caller> caller = context.tenants.Authenticate(HeaderOf(call, "authorization"));
  if (!caller.ok()) {
    context.metrics.RecordUnauthenticated();
    return caller;
  }
  ATTND_RETURN_IF_ERROR(Require(*caller, right));
  return caller;
}

// Whether figures of that tenant's may be shown.
inline bool MaySee(const Caller& caller, TenantIndex tenant) {
  return caller.sees_all() || caller.tenant == tenant;
}

}  // namespace attnd
