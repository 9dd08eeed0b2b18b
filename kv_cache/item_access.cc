// SPDX-License-Identifier: Apache-2.0
//
// Reserve and Pin: an item's way from its admission to its launch, and back by its handles.
#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"
#include "kv_cache/kv_cache_impl.h"

namespace attnd {
namespace {

constexpr int64_t kMaxSequencesForHint = 1024;

}  // namespace

absl::StatusOr<SequencePlace> KvCache::Impl::PlaceOf(SessionRef by, SequenceId id) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(const Sequence* sequence, FindSequence(by, id));
  return SequencePlace{.geometry = sequence->cache().geometry, .device = sequence->device()};
}

absl::StatusOr<PageReservation> KvCache::Impl::Reserve(const LayerAccess& access) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(Sequence * sequence, FindSequence(access.by, access.sequence));
  ATTND_RETURN_IF_ERROR(CheckNotLost(*sequence));
  ATTND_RETURN_IF_ERROR(sequence->CheckRange(access));
  if (!access.write || sequence->StepApplied(access)) return PageReservation();
  if (const std::optional<PageShortage> shortage = sequence->Reserve(access)) {
    return Exhausted(access.sequence, *sequence, *shortage);
  }
  return PageReservation(this, access.sequence);
}

absl::StatusOr<PageLease> KvCache::Impl::Pin(const LayerAccess& access,
                                             PageReservation& reservation) {
  MutexLock lock(mu_);
  ATTND_ASSIGN_OR_RETURN(Sequence * sequence, FindSequence(access.by, access.sequence));
  ATTND_RETURN_IF_ERROR(CheckNotLost(*sequence));
  ATTND_ASSIGN_OR_RETURN(const Sequence::Kind kind, sequence->Check(access));
  const TokenCount end = access.start_position + access.num_tokens;
  SequencePages& pages = sequence->pages();
  std::vector<PageCopy> copies;
  if (kind == Sequence::Kind::kWrite) {
    const PageRange written = sequence->PagesOf(access.start_position, end);
    if (const std::optional<PageShortage> shortage = pages.PrepareWrite(written, copies)) {
      return Exhausted(access.sequence, *sequence, *shortage);
    }
    sequence->Apply(access);
    pages_copied_total_ += copies.size();
  }
  // From here on nothing fails. The reservation may be of another sequence, then it is left alone.
  if (reservation.active() && reservation.sequence() == access.sequence) {
    reservation.Detach();
    pages.ReturnReservation();
  }

  const Cache& cache = sequence->cache();
  const SlabLayout& layout = cache.layout;
  const TokenCount kv_len = access.kv_length.value_or(end);
  const PageLease::View view{.device = sequence->device(),
                             .layer_base = caches_.pool(sequence->device()).base() +
                                           access.layer.value() * layout.layer_stride_bytes,
                             .geometry = cache.geometry,
                             .layout = layout,
                             .start_position = access.start_position,
                             .kv_len = kv_len,
                             .layer_length = sequence->layers()[access.layer.value()].length,
                             .replayed = kind == Sequence::Kind::kReplay};
  const size_t num_pages = sequence->PagesOf(TokenCount(0), kv_len).end;
  SequencePages::Pinned pinned = pages.Pin(num_pages);
  return PageLease(this, view, std::move(pinned.offsets), num_pages, std::move(copies),
                   Pinned{.sequence = access.sequence, .phase = pinned.phase});
}

void KvCache::Impl::ReturnReservation(SequenceId id) {
  MutexLock lock(mu_);
  // A sequence that was freed took its promises with it.
  if (Sequence* sequence = sequences_.Find(id)) sequence->pages().ReturnReservation();
}

void KvCache::Impl::Unpin(Pinned pinned) {
  MutexLock lock(mu_);
  sequences_.Find(pinned.sequence)->pages().Unpin(pinned.phase);
}

absl::Status KvCache::Impl::Exhausted(SequenceId id, const Sequence& sequence,
                                      const PageShortage& shortage) const {
  const Cache& cache = sequence.cache();
  // A look at some sequences is enough for a hint: the lock is held, and refusals come in storms.
  int64_t seen = 0, largest = 0;
  sequences_.ForEach([&](SequenceId, const Sequence& other) {
    if (++seen > kMaxSequencesForHint || &other.cache() != &cache ||
        other.device() != sequence.device()) {
      return;
    }
    largest = std::max(largest, static_cast<int64_t>(other.pages().size()));
  });
  // What is full is the sequence's device; a quota counts all of them.
  const CacheOnDevice& here = cache.devices[sequence.device().value()];
  const CacheInfo info = Describe(cache);
  const PageCount used = shortage.by_quota ? info.used : here.pages.used();
  const PageCount cached = shortage.by_quota ? info.cached : here.pages.idle();
  const PageCount promised = shortage.by_quota ? info.reserved : here.pages.promised();
  const int64_t num_sequences = shortage.by_quota ? info.num_sequences : here.num_sequences;
  const int64_t pool_mib = static_cast<int64_t>(kSuperblockBytes.value() >> 20) *
                           caches_.pool(sequence.device()).num_superblocks();
  const bool by_tenant =
      !shortage.by_quota && cache.tenant.superblocks_left() < cache.layout.superblocks_per_slab;
  if (by_tenant) cache.tenant.CountRefusedPages();
  const std::string limit =
      shortage.by_quota ? absl::StrFormat("the page quota of %d", cache.quota.limit.value())
      : by_tenant       ? cache.tenant.DescribeKvLimit()
                        : absl::StrFormat("the pool of %d MiB, which all caches share", pool_mib);
  return AttachErrorDetail(
      absl::ResourceExhaustedError(absl::StrFormat(
          "sequence %s needs %d pages and %d are free within %s, prefixes that could be evicted "
          "counted; cache '%s' holds %d pages in %d sequences, one of which holds %d, %d in "
          "prefixes "
          "that no sequence holds, and promised %d to queued items; freeing or truncating "
          "sequences "
          "makes room",
          ToString(id), shortage.needed.value(), shortage.free.value(), limit, cache.name,
          used.value(), num_sequences, largest, cached.value(), promised.value())),
      {.reason = by_tenant ? ErrorReason::kTenantLimit : ErrorReason::kPagesExhausted,
       .needed_pages = shortage.needed,
       .free_pages = shortage.free});
}

}  // namespace attnd
