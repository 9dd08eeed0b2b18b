// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <memory>
#include <utility>

#include "server/observe/log.h"
#include "server/rpc/attend_exchange.h"
#include "server/rpc/attention_calls.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/identify.h"

namespace attnd {
namespace {

// The response of an exchange, as a StatusOr for both kinds.
absl::StatusOr<grpc::ByteBuffer> RespondTo(AttendExchange& exchange,
                                           std::unique_ptr<Request> done) {
  return exchange.Respond(std::move(done));
}
absl::StatusOr<grpc::ByteBuffer> RespondTo(FlashExchange& exchange, std::unique_ptr<Request> done) {
  return exchange.Respond(std::move(done));
}

// Attend or FlashAttention. Prepares on gRPC's thread and answers on the scheduler's.
template <typename Exchange>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  UnaryCall(const ServiceContext& context, grpc::CallbackServerContext* call,
            grpc::ByteBuffer* response)
      : context_(context), call_(call), response_(response), exchange_(context) {}

  // Runs before gRPC knows this reactor: until the method returns it, a Finish from another thread
  // is kept back, and neither OnCancel nor OnDone can come. So nothing here races with them.
  void Start(const grpc::ByteBuffer* message) {
    exchange_.SetCallId(HeaderOf(*call_, kRequestIdKey));
    const absl::StatusOr<Caller> caller = Identify(context_, *call_, Right::kAttend);
    if (!caller.ok()) return Fail(caller.status());
    exchange_.SetCaller(*caller);
    absl::StatusOr<std::unique_ptr<Request>> request =
        exchange_.Prepare(*message, DeadlineOf(*call_, context_.clock));
    // The tensors are in staging: a large message need not wait in memory for the call to end. gRPC
    // hands its own, mutable message out by a pointer to const.
    const_cast<grpc::ByteBuffer*>(message)->Clear();
    if (!request.ok()) return Fail(request.status());
    if (*request == nullptr) {
      Answer(nullptr);
      return;
    }
    (*request)->done = [this](std::unique_ptr<Request> done) { Answer(std::move(done)); };
    absl::StatusOr<RequestId> id = context_.admission.Admit(*std::move(request));
    if (!id.ok()) return Fail(id.status());
    id_ = *id;
  }

  void OnCancel() override { context_.scheduler.Cancel(id_); }
  void OnDone() override { delete this; }

 private:
  void Fail(const absl::Status& status) {
    const absl::Status refused = exchange_.Refuse(status);
    call_->AddTrailingMetadata(kRequestIdKey, exchange_.call_id());
    Finish(ToGrpcStatus(refused, *call_));
  }
  void Answer(std::unique_ptr<Request> done) {
    absl::StatusOr<grpc::ByteBuffer> response = RespondTo(exchange_, std::move(done));
    if (response.ok()) response->Swap(response_);
    Finish(ToGrpcStatus(response.status(), *call_));
  }

  const ServiceContext& context_;
  grpc::CallbackServerContext* const call_;
  grpc::ByteBuffer* const response_;
  Exchange exchange_;
  RequestId id_ = kNoRequest;
};

template <typename Exchange>
grpc::ServerUnaryReactor* StartUnary(const ServiceContext& context,
                                     grpc::CallbackServerContext* call,
                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  auto* reactor = new UnaryCall<Exchange>(context, call, response);
  reactor->Start(request);
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* StartAttend(const ServiceContext& context,
                                      grpc::CallbackServerContext* call,
                                      const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return StartUnary<AttendExchange>(context, call, request, response);
}

grpc::ServerUnaryReactor* StartFlashAttention(const ServiceContext& context,
                                              grpc::CallbackServerContext* call,
                                              const grpc::ByteBuffer* request,
                                              grpc::ByteBuffer* response) {
  return StartUnary<FlashExchange>(context, call, request, response);
}

MonotonicTime DeadlineOf(const grpc::CallbackServerContext& call, const Clock& clock) {
  const gpr_timespec deadline = call.raw_deadline();
  if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0) return kNoDeadline;
  const gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
  // A deadline of centuries is none.
  constexpr int64_t kYearSeconds = 365LL * 24 * 3600;
  if (left.tv_sec > 100 * kYearSeconds) return kNoDeadline;
  return clock.Now() + std::chrono::seconds(left.tv_sec) + std::chrono::nanoseconds(left.tv_nsec);
}

}  // namespace attnd
