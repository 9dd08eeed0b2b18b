// SPDX-License-Identifier: Apache-2.0
//
// Prefixes: what a prompt would match, and the publication of a sequence's pages. Matching for a
// new sequence is part of CreateSequence.
#include <algorithm>
#include <string_view>

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/kv_cache_impl.h"
#include "kv_cache/prefix_index.h"

namespace attnd {

absl::StatusOr<TokenCount> KvCache::Impl::MatchPrefix(SessionRef by, CacheId cache_id,
                                                      const Prefix& prefix) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Session* session, sessions_.Authorize(by));
  const Cache* cache = caches_.Find(cache_id, by.tenant);
  if (cache == nullptr) return CacheTable::NotFound(cache_id);
  ATTND_RETURN_IF_ERROR(CheckPrefix(*cache, prefix));
  const CacheTable::Match match = caches_.FindPrefix(*cache, session->prefix_scope, prefix.keys);
  return MatchedTokens(*cache, prefix, match.run.size());
}

absl::StatusOr<PublishedPrefix> KvCache::Impl::PublishPrefix(
    SessionRef by, SequenceId id, int64_t first_page, std::span<const std::string_view> keys) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(Sequence * sequence, FindUnpinned(by, id));
  ATTND_RETURN_IF_ERROR(CheckNotLost(*sequence));
  ATTND_RETURN_IF_ERROR(CheckPrefixKeys(keys));
  if (first_page < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("first_page: %d, expected at least 0", first_page));
  }
  if (keys.empty()) return PublishedPrefix();
  const int64_t num_pages = std::ssize(keys);
  ATTND_RETURN_IF_ERROR(sequence->CheckComplete(first_page, num_pages));
  PrefixIndex& prefixes = sequence->cache().on(sequence->device()).prefixes;
  ATTND_ASSIGN_OR_RETURN(
      const size_t added,
      prefixes.Publish(sessions_.Find(by.session)->prefix_scope, keys, sequence->pages().pages(),
                       static_cast<size_t>(first_page)));
  return PublishedPrefix{.pages = PageCount(num_pages),
                         .added = PageCount(static_cast<int64_t>(added))};
}

absl::Status KvCache::Impl::CheckPrefix(const Cache& cache, const Prefix& prefix) {
  ATTND_RETURN_IF_ERROR(CheckPrefixKeys(prefix.keys));
  const int64_t num_tokens = prefix.num_tokens.value();
  if (num_tokens < 1 || num_tokens > kMaxSequenceTokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("num_tokens: %d, expected 1 to %d", num_tokens, kMaxSequenceTokens));
  }
  const int64_t full_pages = num_tokens / cache.geometry.page_size_tokens;
  if (std::ssize(prefix.keys) > full_pages) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "keys: %d of them, expected at most %d: %d tokens fill no more pages of %d",
        prefix.keys.size(), full_pages, num_tokens, cache.geometry.page_size_tokens));
  }
  return absl::OkStatus();
}

TokenCount KvCache::Impl::MatchedTokens(const Cache& cache, const Prefix& prefix,
                                        size_t num_pages) {
  const int64_t tokens = static_cast<int64_t>(num_pages) * cache.geometry.page_size_tokens;
  return std::min(TokenCount(tokens), prefix.num_tokens - TokenCount(1));
}

}  // namespace attnd
