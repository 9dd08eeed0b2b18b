// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/unary_call.h"

#include <random>
#include <utility>

namespace attnd::client {
namespace {

double Jitter() {
  thread_local std::minstd_rand generator{std::random_device{}()};
  return std::uniform_real_distribution<double>(0.0, 1.0)(generator);
}

}  // namespace

UnaryCall::UnaryCall(Connection& connection, uint64_t id, UnaryRequest request, UnaryDone done)
    : connection_(connection),
      id_(id),
      request_(std::move(request)),
      done_(std::move(done)),
      deadline_(connection.timers().Now() + (request_.options.timeout > Duration::zero()
                                                 ? request_.options.timeout
                                                 : connection.options().call_timeout)) {}

void UnaryCall::StartAttempt() {
  auto context = std::make_shared<grpc::ClientContext>();
  const Duration remaining = deadline_ - connection_.timers().Now();
  context->set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                     gpr_time_from_nanos(remaining.count(), GPR_TIMESPAN)));
  {
    MutexLock lock(mu_);
    waiting_ = false;
    if (finished_ || cancelled_) return;
    context_ = context;
  }
  ++attempts_;
  token_ = connection_.tokens().AddTo(*context);
  response_.Clear();
  connection_.stub().UnaryCall(
      context.get(), request_.method, grpc::StubOptions(), &request_.message.bytes(), &response_,
      [self = shared_from_this()](grpc::Status status) { self->OnAttemptDone(status); });
}

std::optional<Duration> UnaryCall::DelayAfter(const absl::Status& status) {
  // Refused before it was executed; a token that was rotated meanwhile gets one attempt.
  if (absl::IsUnauthenticated(status) && !token_renewed_) {
    token_renewed_ = connection_.tokens().HasOtherThan(token_);
    if (token_renewed_) return Duration::zero();
  }
  return RetryDelay(connection_.options().retry, status, request_.repeat, attempts_, Jitter());
}

void UnaryCall::OnAttemptDone(const grpc::Status& grpc_status) {
  std::shared_ptr<grpc::ClientContext> context;  // destroyed outside the lock
  bool cancelled;
  {
    MutexLock lock(mu_);
    context = std::move(context_);
    context_ = nullptr;
    cancelled = cancelled_;
  }
  context = nullptr;
  absl::Status status = connection_.ToStatus(grpc_status);
  const std::optional<Duration> delay = cancelled ? std::nullopt : DelayAfter(status);
  const MonotonicTime next = connection_.timers().Now() + delay.value_or(Duration::zero());
  // Where the next attempt cannot come in time, the refusal says more than DEADLINE_EXCEEDED.
  if (!delay || next >= deadline_) {
    Finish(std::move(status));
    return;
  }
  {
    MutexLock lock(mu_);
    waiting_ = !cancelled_;
    cancelled = cancelled_;
  }
  if (cancelled) {
    Finish(absl::CancelledError("the call was cancelled"));
    return;
  }
  connection_.timers().RunAt(next, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->StartAttempt();
  });
}

void UnaryCall::Cancel() {
  bool was_waiting;
  std::shared_ptr<grpc::ClientContext> context;
  {
    MutexLock lock(mu_);
    if (finished_) return;
    cancelled_ = true;
    was_waiting = std::exchange(waiting_, false);
    context = context_;
  }
  if (context != nullptr) context->TryCancel();
  if (was_waiting) Finish(absl::CancelledError("the call was cancelled"));
}

void UnaryCall::Finish(absl::Status status) {
  {
    MutexLock lock(mu_);
    if (std::exchange(finished_, true)) return;
  }
  request_.message.Clear();
  auto report = [self = shared_from_this(), status = std::move(status)]() mutable {
    std::exchange(self->done_, nullptr)(std::move(status), self->response_);
    self->connection_.Forget(self->id_);
  };
  if (request_.guard == nullptr) {
    report();
  } else {
    // A copy, for `report` may destroy this call.
    std::shared_ptr<BorrowGuard> guard = request_.guard;
    guard->WhenReturned(connection_.timers(), std::move(report));
  }
}

}  // namespace attnd::client
