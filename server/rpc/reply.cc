// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/reply.h"

namespace attnd {

void Reply::Send(const absl::Status& status) const {
  context_->metrics.RecordControl(method_, status.code());
  LogCall({.method = method_,
           .request_id = request_id_,
           .tenant = tenant_ == nullptr ? absl::string_view() : *tenant_,
           .code = status.code(),
           .message = status.message(),
           .duration = context_->clock.Now() - began_});
  call_->AddTrailingMetadata(kRequestIdKey, request_id_);
  reactor_->Finish(ToGrpcStatus(status, *call_));
}

}  // namespace attnd
