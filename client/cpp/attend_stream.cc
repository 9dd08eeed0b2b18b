// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/attend_stream.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include <grpcpp/client_context.h>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "client/cpp/error_detail.h"
#include "client/cpp/internal/attend_codec.h"
#include "client/cpp/internal/methods.h"
#include "client/cpp/internal/state.h"
#include "client/cpp/session.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

thread_local bool t_in_callback = false;

}  // namespace

// The reactor of the stream. One write and one read are outstanding at most; gRPC calls On...() one
// at a time for each direction. Lock order: none is held across gRPC or a callback.
class AttendStream::Impl : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Impl(std::shared_ptr<SessionState> session, const AttendStreamOptions& options)
      : session_(std::move(session)), max_in_flight_(std::max(1, options.max_in_flight)) {}

  void Start() {
    session_->connection->tokens().AddTo(context_);
    session_->connection->stub().PrepareBidiStreamingCall(&context_, kAttendStream,
                                                          grpc::StubOptions(), this);
    AddHold();  // writes start outside of reactions; Finish releases it
    StartRead(&received_);
    StartCall();
  }

  absl::Status Send(std::span<const AttendItem> items, AttendCallback done);
  absl::Status Finish();
  void Cancel() { context_.TryCancel(); }
  // Ends when no gRPC thread touches this object any more.
  void Wait() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    while (!over_ || in_flight_ > 0) changed_.Wait(mu_);
  }

 private:
  struct Pending {
    std::vector<AttendCodec::Output> outputs;
    std::shared_ptr<BorrowGuard> guard;  // shared with the message's slices
    AttendCallback done;
  };

  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  // Removes the hold of Start, once; the stream ends when both sides have nothing left to say.
  void ReleaseHold() ABSL_LOCKS_EXCLUDED(mu_);
  void Complete(Pending pending, absl::StatusOr<AttendResult> result);

  const std::shared_ptr<SessionState> session_;  // shared with the Session
  const int max_in_flight_;
  grpc::ClientContext context_;
  grpc::ByteBuffer received_;  // of the read in progress

  Mutex mu_;
  CondVar changed_;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;   // without a finished callback
  int slots_used_ ABSL_GUARDED_BY(mu_) = 0;  // without a response
  absl::flat_hash_map<uint64_t, Pending> pending_ ABSL_GUARDED_BY(mu_);
  std::deque<OutgoingMessage> writes_ ABSL_GUARDED_BY(mu_);  // the front one is being written
  bool closing_ ABSL_GUARDED_BY(mu_) = false;                // no Send any more
  bool broken_ ABSL_GUARDED_BY(mu_) = false;                 // a write or the read has failed
  bool held_ ABSL_GUARDED_BY(mu_) = true;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mu_);
};

absl::Status AttendStream::Impl::Send(std::span<const AttendItem> items, AttendCallback done) {
  uint64_t id;
  {
    MutexLock lock(mu_);
    // A callback that waited here would wait for responses that are read after it.
    while (!t_in_callback && slots_used_ >= max_in_flight_ && !closing_ && !broken_) {
      changed_.Wait(mu_);
    }
    if (closing_ || broken_) return absl::UnavailableError("the stream is over: open another");
    ++slots_used_;
    ++in_flight_;
    id = next_id_++;
  }
  absl::StatusOr<AttendCodec::Request> request = AttendCodec::Encode(*session_, items, id);
  const OutgoingMessage* write = nullptr;
  {
    MutexLock lock(mu_);
    if (!request.ok() || closing_ || broken_) {
      --slots_used_;
      --in_flight_;
      changed_.SignalAll();
      if (!request.ok()) return request.status();
      return absl::UnavailableError("the stream is over: open another");
    }
    pending_.emplace(id, Pending{std::move(request->outputs), request->guard, std::move(done)});
    writes_.push_back(std::move(request->message));
    if (writes_.size() == 1) {
      write = &writes_.front();
      AddHold();  // the stream stays until the write was started
    }
  }
  if (write != nullptr) {
    StartWrite(&write->bytes());
    RemoveHold();
  }
  return absl::OkStatus();
}

void AttendStream::Impl::OnWriteDone(bool ok) {
  OutgoingMessage written;  // destroyed outside the lock
  const OutgoingMessage* write = nullptr;
  {
    MutexLock lock(mu_);
    written = std::move(writes_.front());
    writes_.pop_front();
    if (!ok) broken_ = true;
    if (broken_) writes_.clear();
    if (!writes_.empty()) write = &writes_.front();
    changed_.SignalAll();
  }
  if (write != nullptr) {
    StartWrite(&write->bytes());
  } else if (!ok) {
    ReleaseHold();
  }
}

void AttendStream::Impl::OnReadDone(bool ok) {
  if (!ok) {
    {
      MutexLock lock(mu_);
      broken_ = true;
      changed_.SignalAll();
    }
    return ReleaseHold();
  }
  grpc::ByteBuffer bytes;
  bytes.Swap(&received_);
  absl::StatusOr<AttendCodec::Response> response = AttendCodec::Parse(bytes);
  Pending pending;
  {
    MutexLock lock(mu_);
    auto found = response.ok() ? pending_.find(response->header.request_id()) : pending_.end();
    // An answer to nothing: the peer is broken. Its requests end with the stream.
    if (found == pending_.end()) {
      broken_ = true;
    } else {
      pending = std::move(found->second);
      pending_.erase(found);
      --slots_used_;
    }
    changed_.SignalAll();
  }
  if (pending.done == nullptr) {
    context_.TryCancel();
  } else {
    absl::StatusOr<AttendResult> result =
        AttendCodec::Finish(*std::move(response), pending.outputs);
    Complete(std::move(pending), std::move(result));
  }
  // Only now: with two reads under way, their callbacks would race.
  StartRead(&received_);
}

void AttendStream::Impl::Complete(Pending pending, absl::StatusOr<AttendResult> result) {
  std::shared_ptr<BorrowGuard> guard = pending.guard;
  // std::function wants copyable captures; the result is not.
  auto shared = std::make_shared<absl::StatusOr<AttendResult>>(std::move(result));
  guard->WhenReturned(session_->connection->timers(),
                      [self = this, done = std::move(pending.done), shared] {
                        t_in_callback = true;
                        done(std::move(*shared));
                        t_in_callback = false;
                        MutexLock lock(self->mu_);
                        --self->in_flight_;
                        self->changed_.SignalAll();
                      });
}

void AttendStream::Impl::ReleaseHold() {
  bool intact;
  {
    MutexLock lock(mu_);
    // Whoever takes the hold has the stream to itself until it is removed.
    if (!std::exchange(held_, false)) return;
    intact = !broken_;
  }
  if (intact) StartWritesDone();
  RemoveHold();
}

void AttendStream::Impl::OnDone(const grpc::Status& grpc_status) {
  absl::Status status = session_->connection->ToStatus(grpc_status);
  absl::flat_hash_map<uint64_t, Pending> pending;
  std::deque<OutgoingMessage> writes;
  {
    MutexLock lock(mu_);
    broken_ = true;
    end_ = status;
    pending = std::move(pending_);
    pending_.clear();
    slots_used_ = 0;
    writes.swap(writes_);
    changed_.SignalAll();
  }
  writes.clear();
  if (status.ok()) status = absl::UnavailableError("the daemon closed the stream");
  if (absl::IsUnavailable(status) && !GetErrorDetail(status)) MarkChannelError(status);
  for (auto& [id, request] : pending) Complete(std::move(request), status);
  MutexLock lock(mu_);
  over_ = true;
  changed_.SignalAll();
}

absl::Status AttendStream::Impl::Finish() {
  {
    MutexLock lock(mu_);
    closing_ = true;
    changed_.SignalAll();
    while (!broken_ && (!writes_.empty() || !pending_.empty())) changed_.Wait(mu_);
  }
  ReleaseHold();
  Wait();
  MutexLock lock(mu_);
  return end_;
}

AttendStream::AttendStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

AttendStream::~AttendStream() {
  impl_->Cancel();
  (void)impl_->Finish();
}

absl::Status AttendStream::Send(std::span<const AttendItem> items,
                                std::function<void(absl::StatusOr<AttendResult>)> done) {
  return impl_->Send(items, std::move(done));
}

absl::Status AttendStream::Finish() { return impl_->Finish(); }

std::unique_ptr<AttendStream> Session::OpenStream(const AttendStreamOptions& options) {
  auto impl = std::make_unique<AttendStream::Impl>(state_, options);
  impl->Start();
  return std::unique_ptr<AttendStream>(new AttendStream(std::move(impl)));
}

}  // namespace attnd::client
