// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/token_source.h"

#include <algorithm>

#include <grpcpp/client_context.h>

#include "absl/strings/ascii.h"
#include "client/cpp/internal/concat.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

constexpr size_t kMaxTokenBytes = 4096;

// Says nothing of the token but its size.
absl::Status CheckToken(std::string_view what, std::string_view token) {
  if (token.empty()) return absl::InvalidArgumentError(Concat(what, " is empty"));
  const bool visible = std::all_of(token.begin(), token.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c));
  });
  if (visible && token.size() <= kMaxTokenBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Concat(what, " has ", token.size(), " bytes",
             visible ? "" : ", some of them spaces or not visible ASCII",
             "; expected one word of at most ", kMaxTokenBytes));
}

}  // namespace

TokenSource::TokenSource(const Credentials& credentials)
    : path_(credentials.token_file), token_(credentials.token) {}

absl::StatusOr<std::unique_ptr<TokenSource>> TokenSource::Make(const Credentials& credentials) {
  if (!credentials.token.empty() && !credentials.token_file.empty()) {
    return absl::InvalidArgumentError(Concat("token and token_file ", credentials.token_file,
                                             " are both given, expected one of them"));
  }
  if (!credentials.token.empty()) ATTND_RETURN_IF_ERROR(CheckToken("token", credentials.token));
  std::unique_ptr<TokenSource> source(new TokenSource(credentials));
  if (!source->path_.empty()) {
    MutexLock lock(source->mu_);
    ATTND_RETURN_IF_ERROR(source->Read());
  }
  return source;
}

absl::Status TokenSource::Read() {
  // Before the content: what changes in between is seen the next time.
  stamp_ = StampOf(path_);
  absl::StatusOr<std::string> content = ReadSecretFile("token_file", path_);
  problem_ = content.status();
  if (!problem_.ok()) return problem_;
  absl::StripAsciiWhitespace(&*content);
  problem_ = CheckToken(Concat("token_file: ", path_), *content);
  if (problem_.ok()) token_ = *std::move(content);
  return problem_;
}

std::string TokenSource::Current() {
  MutexLock lock(mu_);
  if (!path_.empty() && StampOf(path_) != stamp_) Read().IgnoreError();
  return token_;
}

bool TokenSource::HasOtherThan(std::string_view refused) {
  MutexLock lock(mu_);
  if (!path_.empty()) Read().IgnoreError();
  return token_ != refused;
}

std::string TokenSource::AddTo(grpc::ClientContext& context) {
  std::string token = Current();
  if (!token.empty()) context.AddMetadata("authorization", Concat("Bearer ", token));
  return token;
}

std::string TokenSource::Describe() const {
  MutexLock lock(mu_);
  if (!path_.empty()) {
    return Concat("the token of ", path_,
                  problem_.ok() ? "" : Concat(" (", problem_.message(), ")"));
  }
  return token_.empty() ? "no token" : "the token that it was given";
}

}  // namespace attnd::client
