// SPDX-License-Identifier: Apache-2.0
//
// A session: holds sequences on the daemon by a lease, and is what attention is called on.
//
// The lease is renewed in the background while the object lives. Destroying the object leaves the
// session to its lease, so that another process can take it up with the token; Close() ends it and
// frees its sequences. Keep the token where a crash does not reach it. Thread-safe.
//
//   absl::StatusOr<Sequence> sequence = session->CreateSequence(*cache);
//   absl::StatusOr<AttendResult> result = session->Attend(items);
//   session->AttendAsync(items, {}, [](absl::StatusOr<AttendResult> result) { ... });
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/attend.h"
#include "client/cpp/attend_stream.h"
#include "client/cpp/sequence.h"
#include "client/cpp/types.h"

namespace attnd::client {

struct Cache;
struct SessionState;

using AttendCallback = std::function<void(absl::StatusOr<AttendResult>)>;

class Session {
 public:
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const Id& id() const;
  // The secret that resumes the session: 16 bytes, not printable.
  const std::string& token() const;
  uint64_t epoch() const;
  // OK while the lease is being renewed; why not, once the session was resumed elsewhere (ABORTED)
  // or is gone (NOT_FOUND).
  absl::Status lease_status() const;

  // `client_state`: opaque bytes kept with the sequence, at most 1 MiB; version 1 where not empty.
  absl::StatusOr<Sequence> CreateSequence(const Cache& cache, std::string_view client_state = {},
                                          const CallOptions& call = {});
  // Starts with the longest run of published pages that the keys name; matched_tokens() of the
  // sequence says how many tokens need not be computed again, all but one at most.
  absl::StatusOr<Sequence> CreateSequence(const Cache& cache, const Prefix& prefix,
                                          std::string_view client_state = {},
                                          const CallOptions& call = {});
  // How many tokens that would match now. Changes and promises nothing.
  absl::StatusOr<int64_t> MatchPrefix(const Cache& cache, const Prefix& prefix,
                                      const CallOptions& call = {});
  absl::StatusOr<std::vector<SequenceInfo>> ListSequences(const CallOptions& call = {});

  // Items succeed or fail one by one: see AttendResult. The call fails where nothing of it was
  // executed, or with a connection error: possibly executed, see IsChannelError. Repeats itself as
  // client.h says, with the same steps.
  absl::StatusOr<AttendResult> Attend(std::span<const AttendItem> items,
                                      const CallOptions& call = {});
  // `done` runs once, on a thread of the library, and must not block; what the items borrow is
  // borrowed until then, the items themselves only until this returns. It runs before this returns
  // where the arguments are refused.
  void AttendAsync(std::span<const AttendItem> items, const CallOptions& call, AttendCallback done);
  std::unique_ptr<AttendStream> OpenStream(const AttendStreamOptions& options = {});

  // Starts the lease anew and returns its length.
  absl::StatusOr<Duration> RenewLease(const CallOptions& call = {});
  // Ends the session and frees its sequences, once what is launched has finished.
  absl::Status Close(const CallOptions& call = {});

 private:
  friend class Client;
  absl::StatusOr<Sequence> Create(const Cache& cache, const Prefix* prefix,
                                  std::string_view client_state, const CallOptions& call);
  explicit Session(std::shared_ptr<SessionState> state);
  std::shared_ptr<SessionState> state_;  // shared with the session's sequences and streams
};

struct ResumedSession {
  std::unique_ptr<Session> session;
  struct Entry {
    Sequence sequence;
    SequenceInfo info;  // with client_state
  };
  std::vector<Entry> sequences;
};

}  // namespace attnd::client
