// SPDX-License-Identifier: Apache-2.0
//
// A connection to one attention daemon: where everything starts.
//
// Thread-safe. Every call blocks until its deadline at most, unless its name ends in Async.
// Statuses carry the daemon's message; error_detail.h reads what else it said. The library repeats
// a call by itself where that is harmless: after UNAVAILABLE for a full queue, with the daemon's
// delay; after a connection error for calls that may be sent twice (reads, Attend with its steps,
// OpenCache, Free). The destructor cancels what is in flight and waits for its callbacks; sessions,
// sequences and streams share the connection and may outlive the Client. None of them may be
// destroyed in a callback.
//
//   absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect({.address =
//   "unix:/run/attnd"}); absl::StatusOr<Cache> cache = (*client)->OpenCache("smollm2", geometry);
//   absl::StatusOr<std::unique_ptr<Session>> session = (*client)->OpenSession();
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/credentials.h"
#include "client/cpp/flash_attention.h"
#include "client/cpp/sequence.h"
#include "client/cpp/session.h"
#include "client/cpp/types.h"

namespace attnd::client {

class Timers;

struct RetryPolicy {
  int max_attempts = 8;  // 1: never retry
  // After a connection error; doubles from one attempt to the next. A daemon that names its own
  // delay is waited for that long instead.
  Duration initial_backoff = std::chrono::milliseconds(20);
  Duration max_backoff = std::chrono::seconds(2);
};

struct ClientOptions {
  std::string address = "127.0.0.1:7450";  // "host:port" or "unix:/path"
  Credentials credentials{};
  Duration connect_timeout = std::chrono::seconds(5);
  Duration call_timeout = std::chrono::seconds(60);  // where CallOptions names none
  RetryPolicy retry{};
  // Runs retries and lease renewals. Null: a thread of the client's own; tests pass a manual one.
  std::shared_ptr<Timers> timers{};
};

// A named geometry in the daemon's pool. A value.
struct Cache {
  CacheInfo info{};
  bool created = false;  // by this call; false: it was there already
};

struct OpenSessionOptions {
  Duration lease{};      // 0: the daemon's default
  std::string label{};   // shown to operators; at most 128 bytes
  std::string tenant{};  // whose published prefixes it shares; at most 128 bytes; not on resuming
  bool renew_lease = true;  // in the background, while the Session object lives
};

struct DrainResult {
  bool complete = false;  // false: the timeout came first
  int64_t remaining_items = 0;
};

struct IntegrityReport {
  int64_t pages_checked = 0;
  int64_t sequences_checked = 0;
};

struct LogLevels {
  std::string former;  // until the call
  std::string level;   // from then on
};

class Client {
 public:
  // Connects and reads the daemon's capabilities. UNAVAILABLE says why no daemon answers there;
  // INVALID_ARGUMENT for a malformed address, and for credentials that cannot work; UNAUTHENTICATED
  // where the daemon does not know the token.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const ClientOptions& options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // As of Connect.
  const Capabilities& capabilities() const;
  const std::string& address() const;

  // Opens the cache of this name, creating it where there is none. FAILED_PRECONDITION where it
  // exists with another geometry, UNIMPLEMENTED where no kernel serves it, RESOURCE_EXHAUSTED where
  // the pool cannot hold a slab of it. page_quota 0: no limit but the pool's.
  absl::StatusOr<Cache> OpenCache(std::string_view name, const CacheGeometry& geometry,
                                  int64_t page_quota = 0, const CallOptions& call = {});
  // FAILED_PRECONDITION while sequences live in it.
  absl::Status CloseCache(const Id& cache, const CallOptions& call = {});
  absl::StatusOr<std::vector<CacheInfo>> ListCaches(const CallOptions& call = {});

  absl::StatusOr<std::unique_ptr<Session>> OpenSession(const OpenSessionOptions& options = {},
                                                       const CallOptions& call = {});
  // Takes a session up again with the token of its last Open or Resume; the new one is
  // session->token(). The one that was sent is void once the resumed session has been used, so a
  // lost answer is asked for again. The sequences come in ResumedSession. NOT_FOUND for an unknown,
  // replaced or expired token.
  absl::StatusOr<ResumedSession> ResumeSession(std::string_view token,
                                               const OpenSessionOptions& options = {},
                                               const CallOptions& call = {});

  absl::StatusOr<FlashAttentionResult> FlashAttention(const FlashAttentionArgs& args,
                                                      const CallOptions& call = {});
  // `done` runs once, on a thread of the library, and must not block; the tensors are borrowed
  // until then. It runs before this returns where the arguments are refused.
  void FlashAttentionAsync(const FlashAttentionArgs& args, const CallOptions& call,
                           std::function<void(absl::StatusOr<FlashAttentionResult>)> done);

  // For operators.
  absl::StatusOr<Stats> GetStats(const CallOptions& call = {});
  absl::StatusOr<std::vector<SessionInfo>> ListSessions(const CallOptions& call = {});
  // Refuses new work and waits for the admitted, for `timeout` (0: the daemon's default) at most.
  absl::StatusOr<DrainResult> Drain(Duration timeout = {}, const CallOptions& call = {});
  // INTERNAL names the first disagreement.
  absl::StatusOr<IntegrityReport> CheckIntegrity(const CallOptions& call = {});
  // trace, debug, info, warning or error, until the daemon's end; empty changes nothing.
  // INVALID_ARGUMENT lists the levels.
  absl::StatusOr<LogLevels> SetLogLevel(std::string_view level, const CallOptions& call = {});

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace attnd::client
