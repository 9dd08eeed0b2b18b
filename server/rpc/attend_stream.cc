// SPDX-License-Identifier: Apache-2.0
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "kernels/base/mutex.h"
#include "server/rpc/attend_exchange.h"
#include "server/rpc/attention_calls.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/identify.h"

namespace attnd {
namespace {

using grpc::ByteBuffer;

class RefusedStream final : public grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// Many requests in flight on one stream, answered in order of completion.
//
// A request is in flight from the end of its read to the end of its response's write. While the
// limit of them is reached nothing is read, so that a client that does not read is held back by
// HTTP/2's flow control. One read and one write are under way at a time. Finish is called once
// there is nothing to read, in flight or being written, so that no callback of a request can come
// later.
class AttendStream final : public grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  AttendStream(const ServiceContext& context, const grpc::CallbackServerContext& call,
               const Caller& caller)
      : context_(context), deadline_(DeadlineOf(call, context.clock)), caller_(caller) {
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  // A request between its admission and its answer, which may come before Admit has returned.
  struct InFlight {
    explicit InFlight(const ServiceContext& context) : exchange(context) {}
    AttendExchange exchange;
    RequestId id = kNoRequest;
    bool admitted = false;
    bool answered = false;
  };
  // What to tell gRPC once the lock is released.
  struct Actions {
    bool read = false;
    bool finish = false;
    const ByteBuffer* write = nullptr;
  };

  void Serve();  // the request in incoming_
  void OnAnswer(InFlight* request, std::unique_ptr<Request> done) ABSL_LOCKS_EXCLUDED(mu_);
  void Send(const ByteBuffer& response) ABSL_LOCKS_EXCLUDED(mu_);
  Actions Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run(const Actions& actions);

  const ServiceContext& context_;
  const MonotonicTime deadline_;
  Caller caller_;        // of one Serve after another
  ByteBuffer incoming_;  // gRPC's while a read is under way, then Serve's

  Mutex mu_;
  absl::flat_hash_set<InFlight*> requests_ ABSL_GUARDED_BY(mu_);
  std::deque<ByteBuffer> outgoing_ ABSL_GUARDED_BY(mu_);  // the front is being written
  int64_t in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  bool reading_ ABSL_GUARDED_BY(mu_) = true;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool no_more_reads_ ABSL_GUARDED_BY(mu_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

void AttendStream::OnReadDone(bool ok) {
  if (ok) {
    {
      MutexLock lock(mu_);
      ++in_flight_;
    }
    Serve();
  }
  Actions actions;
  {
    MutexLock lock(mu_);
    reading_ = false;
    no_more_reads_ |= !ok;
    actions = Next();
  }
  Run(actions);
}

// reading_ stays set meanwhile, so that nobody else starts a read or finishes.
void AttendStream::Serve() {
  auto owned = std::make_unique<InFlight>(context_);
  AttendExchange& exchange = owned->exchange;
  // A token may be taken away while the stream lasts.
  const absl::Status still_known = context_.tenants.Revalidate(caller_);
  exchange.SetCaller(caller_);
  absl::StatusOr<std::unique_ptr<Request>> request =
      still_known.ok() ? exchange.Prepare(incoming_, deadline_) : still_known;
  incoming_.Clear();
  if (!request.ok()) {
    Send(exchange.RespondRefused(exchange.Refuse(request.status())));
    return;
  }
  if (*request == nullptr) {
    Send(exchange.Respond(nullptr));
    return;
  }
  InFlight* const in_flight = owned.get();
  (*request)->done = [this, in_flight](std::unique_ptr<Request> done) {
    OnAnswer(in_flight, std::move(done));
  };
  {
    MutexLock lock(mu_);
    requests_.insert(owned.release());
  }
  const absl::StatusOr<RequestId> id = context_.admission.Admit(*std::move(request));
  bool cancel = false;
  {
    MutexLock lock(mu_);
    in_flight->admitted = true;
    if (id.ok()) in_flight->id = *id;
    cancel = cancelled_;
    if (!id.ok() || in_flight->answered) {
      requests_.erase(in_flight);
      owned.reset(in_flight);
    }
  }
  if (!id.ok()) {
    Send(owned->exchange.RespondRefused(owned->exchange.Refuse(id.status())));
  } else if (cancel) {
    context_.scheduler.Cancel(*id);
  }
}

void AttendStream::OnAnswer(InFlight* request, std::unique_ptr<Request> done) {
  ByteBuffer response = request->exchange.Respond(std::move(done));
  std::unique_ptr<InFlight> finished;
  {
    MutexLock lock(mu_);
    request->answered = true;
    if (request->admitted) {
      requests_.erase(request);
      finished.reset(request);
    }
  }
  Send(response);
}

void AttendStream::Send(const ByteBuffer& response) {
  Actions actions;
  {
    MutexLock lock(mu_);
    outgoing_.push_back(response);
    actions = Next();
  }
  Run(actions);
}

void AttendStream::OnWriteDone(bool ok) {
  Actions actions;
  {
    MutexLock lock(mu_);
    writing_ = false;
    cancelled_ |= !ok;
    outgoing_.pop_front();
    --in_flight_;
    actions = Next();
  }
  Run(actions);
}

void AttendStream::OnCancel() {
  std::vector<RequestId> ids;
  Actions actions;
  {
    MutexLock lock(mu_);
    cancelled_ = true;
    for (const InFlight* request : requests_) {
      if (request->admitted && !request->answered) ids.push_back(request->id);
    }
    actions = Next();
  }
  for (RequestId id : ids) context_.scheduler.Cancel(id);
  Run(actions);
}

AttendStream::Actions AttendStream::Next() {
  Actions actions;
  if (finished_) return actions;
  if (cancelled_ && !writing_) {
    // Nobody is there to read them.
    in_flight_ -= static_cast<int64_t>(outgoing_.size());
    outgoing_.clear();
  }
  if (!writing_ && !outgoing_.empty()) {
    writing_ = true;
    actions.write = &outgoing_.front();
  }
  const bool reads_on = !no_more_reads_ && !cancelled_;
  if (reads_on && !reading_ && in_flight_ < context_.limits.max_stream_requests) {
    reading_ = true;
    actions.read = true;
  }
  if (!reads_on && !reading_ && !writing_ && in_flight_ == 0) {
    finished_ = true;
    actions.finish = true;
  }
  return actions;
}

void AttendStream::Run(const Actions& actions) {
  if (actions.write != nullptr) StartWrite(actions.write);
  if (actions.read) StartRead(&incoming_);
  if (actions.finish) Finish(grpc::Status::OK);
}

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartAttendStream(
    const ServiceContext& context, grpc::CallbackServerContext* call) {
  const absl::StatusOr<Caller> caller = Identify(context, *call, Right::kAttend);
  if (!caller.ok()) {
    return new RefusedStream(
        ToGrpcStatus(Exchange(context, Method::kAttend).Refuse(caller.status()), *call));
  }
  return new AttendStream(context, *call, *caller);
}

}  // namespace attnd
