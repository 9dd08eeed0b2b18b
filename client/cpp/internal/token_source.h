// SPDX-License-Identifier: Apache-2.0
//
// The bearer token that calls carry, as it is now: a file is read again when it changes, so that a
// token is rotated without a restart.
//
// Thread-safe. While a rotation leaves the file missing or malformed, the last good token stays.
//
//   ATTND_ASSIGN_OR_RETURN(auto tokens, TokenSource::Make(credentials));
//   tokens->AddTo(context);
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/cpp/credentials.h"
#include "client/cpp/secret_file.h"
#include "kernels/base/mutex.h"

namespace grpc {
class ClientContext;
}

namespace attnd::client {

class TokenSource {
 public:
  // INVALID_ARGUMENT: both a token and a file, a file that cannot be read or that others may read,
  // or a token that is no single word of visible ASCII.
  static absl::StatusOr<std::unique_ptr<TokenSource>> Make(const Credentials& credentials);

  // The token to send now; empty: none.
  std::string Current() ABSL_LOCKS_EXCLUDED(mu_);
  // Reads the file whether or not it seems to have changed: whether its token is another than
  // `refused`.
  bool HasOtherThan(std::string_view refused) ABSL_LOCKS_EXCLUDED(mu_);
  // Adds Current() to the metadata of a call, and returns it.
  std::string AddTo(grpc::ClientContext& context);
  // For messages: where the token is from, and what is wrong there now.
  std::string Describe() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  explicit TokenSource(const Credentials& credentials);
  absl::Status Read() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string path_;  // empty: the token is fixed
  mutable Mutex mu_;
  std::string token_ ABSL_GUARDED_BY(mu_);
  FileStamp stamp_ ABSL_GUARDED_BY(mu_);       // when it was last read, well or not
  absl::Status problem_ ABSL_GUARDED_BY(mu_);  // of the last reading
};

}  // namespace attnd::client
