// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/session_table.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"

namespace attnd {
namespace {

constexpr size_t kTokenBytes = 16;
constexpr size_t kMaxLabelBytes = 128;
constexpr size_t kMaxScopeBytes = 128;

absl::StatusOr<std::string> NewToken() {
  std::string token(kTokenBytes, '\0');
  if (getentropy(token.data(), token.size()) != 0) {
    return absl::InternalError("the operating system gave no random bytes for a session token");
  }
  return token;
}

absl::StatusOr<TokenHash> HashToken(std::string_view token) {
  TokenHash hash;
  unsigned int size = 0;
  if (EVP_Digest(token.data(), token.size(), hash.data(), &size, EVP_sha256(), nullptr) != 1 ||
      size != hash.size()) {
    return absl::InternalError("SHA-256 is not available");
  }
  return hash;
}

absl::Status SessionNotFound(SessionId id) {
  return AttachErrorDetail(
      absl::NotFoundError(absl::StrCat("session ", ToString(id), " not found")),
      {.reason = ErrorReason::kStaleId});
}

// Says nothing about which tokens exist, and never repeats one.
absl::Status TokenNotFound() {
  return AttachErrorDetail(
      absl::NotFoundError("no session has this token, it was replaced, or the lease has ended"),
      {.reason = ErrorReason::kStaleId});
}

}  // namespace

SessionTable::SessionTable(const Options& options, const Clock& clock)
    : options_(options), clock_(clock), sessions_(options.boot, options.max_sessions) {}

absl::StatusOr<SessionGrant> SessionTable::Open(Duration lease, std::string_view label,
                                                std::string_view prefix_scope, TenantIndex tenant) {
  ATTND_ASSIGN_OR_RETURN(const Duration granted, LeaseFor(lease, options_.default_lease));
  if (label.size() > kMaxLabelBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the label has %d bytes; at most %d are allowed", label.size(), kMaxLabelBytes));
  }
  if (prefix_scope.size() > kMaxScopeBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the tenant has %d bytes; at most %d are allowed", prefix_scope.size(), kMaxScopeBytes));
  }
  if (sessions_.full()) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d sessions are open, the most allowed; closing one, or the end of "
                        "its lease, makes room",
                        sessions_.size()));
  }
  ATTND_ASSIGN_OR_RETURN(std::string token, NewToken());
  ATTND_ASSIGN_OR_RETURN(const TokenHash hash, HashToken(token));
  auto session = std::make_unique<Session>();
  session->lease = granted;
  session->lease_end = clock_.Now() + granted;
  session->token_hash = hash;
  session->label = std::string(label);
  session->tenant = tenant;
  session->prefix_scope = std::string(prefix_scope);
  const SessionId id = *sessions_.Insert(std::move(session));
  by_token_.emplace(hash, id);
  return SessionGrant{.ref = {.session = id, .epoch = 1, .tenant = tenant},
                      .token = std::move(token),
                      .lease = granted};
}

absl::StatusOr<SessionGrant> SessionTable::Resume(std::string_view token, Duration lease,
                                                  TenantIndex tenant) {
  ATTND_ASSIGN_OR_RETURN(const TokenHash sent, HashToken(token));
  const auto found = by_token_.find(sent);
  if (token.size() != kTokenBytes || found == by_token_.end()) return TokenNotFound();
  const SessionId id = found->second;
  Session& session = *sessions_.Find(id);
  const MonotonicTime now = clock_.Now();
  if (session.tenant != tenant || now >= session.lease_end) return TokenNotFound();
  ATTND_ASSIGN_OR_RETURN(const Duration granted, LeaseFor(lease, session.lease));
  ATTND_ASSIGN_OR_RETURN(std::string new_token, NewToken());
  ATTND_ASSIGN_OR_RETURN(const TokenHash hash, HashToken(new_token));

  // The token that was sent stays good until the new epoch is used; the other of the two, if any,
  // ends here.
  if (sent == session.token_hash) {
    ForgetFormerToken(session);
  } else {
    by_token_.erase(session.token_hash);
  }
  session.former_token_hash = sent;
  by_token_.emplace(hash, id);
  session.token_hash = hash;
  session.lease = granted;
  session.lease_end = now + granted;
  ++session.epoch;
  return SessionGrant{.ref = {.session = id, .epoch = session.epoch, .tenant = tenant},
                      .token = std::move(new_token),
                      .lease = granted};
}

absl::StatusOr<Session*> SessionTable::Authorize(SessionRef by) {
  Session* session = sessions_.Find(by.session);
  const MonotonicTime now = clock_.Now();
  if (session == nullptr || session->tenant != by.tenant || now >= session->lease_end) {
    return SessionNotFound(by.session);
  }
  if (by.epoch != session->epoch) return FindWithEpoch(by);
  ForgetFormerToken(*session);
  session->lease_end = now + session->lease;
  return session;
}

absl::StatusOr<Session*> SessionTable::FindWithEpoch(SessionRef by) {
  Session* session = sessions_.Find(by.session);
  if (session == nullptr || session->tenant != by.tenant) return SessionNotFound(by.session);
  if (by.epoch < session->epoch) {
    return AttachErrorDetail(
        absl::AbortedError(absl::StrFormat(
            "epoch %d of session %s was superseded by %d: another client resumed the session",
            by.epoch, ToString(by.session), session->epoch)),
        {.reason = ErrorReason::kSuperseded});
  }
  if (by.epoch > session->epoch) {
    return absl::InvalidArgumentError(
        absl::StrFormat("epoch %d of session %s was never given out; the newest is %d", by.epoch,
                        ToString(by.session), session->epoch));
  }
  return session;
}

void SessionTable::Erase(SessionId id) {
  const std::unique_ptr<Session> session = sessions_.Erase(id);
  if (session == nullptr) return;
  ForgetFormerToken(*session);
  by_token_.erase(session->token_hash);
}

void SessionTable::ForgetFormerToken(Session& session) {
  if (!session.former_token_hash.has_value()) return;
  by_token_.erase(*session.former_token_hash);
  session.former_token_hash.reset();
}

std::vector<SessionRef> SessionTable::Expired() const {
  const MonotonicTime now = clock_.Now();
  std::vector<SessionRef> expired;
  sessions_.ForEach([&](SessionId id, const Session& session) {
    if (now >= session.lease_end) {
      expired.push_back({.session = id, .epoch = session.epoch, .tenant = session.tenant});
    }
  });
  return expired;
}

absl::StatusOr<Duration> SessionTable::LeaseFor(Duration asked, Duration otherwise) const {
  if (asked < Duration::zero()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the lease is %d ns; it must not be negative", asked.count()));
  }
  return std::min(asked == Duration::zero() ? otherwise : asked, options_.max_lease);
}

}  // namespace attnd
