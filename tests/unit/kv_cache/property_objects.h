// SPDX-License-Identifier: Apache-2.0
//
// What else the property test does at random: sequences, sessions and caches come and go, ids go
// stale, leases end. Not thread-safe.
//
//   class Walk : public PropertyObjects { void Step() { OneIn(2) ? Fork() : Truncate(); } };
#pragma once

#include <string>
#include <utility>

#include "tests/unit/kv_cache/property_items.h"

namespace attnd {

class PropertyObjects : public PropertyItems {
 public:
  using PropertyItems::PropertyItems;

 protected:
  // --- Sequences.

  void CreateSequence() {
    const auto session = AnySession();
    // Demand moves from cache to cache, and slabs have to follow.
    const int64_t index = OneIn(4) ? Below(kNumGeometries) : steps_ / 3000 % kNumGeometries;
    ModelCache* cache = caches_[static_cast<size_t>(index)].get();
    if (session == sessions_.end() || cache == nullptr) return;
    const SessionRef by = session->second.grant.ref;
    absl::StatusCode expected = Authorize(by);
    if (expected == absl::StatusCode::kOk && std::ssize(sequences_) >= kMaxSequences) {
      expected = absl::StatusCode::kResourceExhausted;
    }
    const std::string state(static_cast<size_t>(Below(3)), 's');
    const absl::StatusOr<SequenceId> id = kv_->CreateSequence(by, cache->id, state);
    if (!Expect(expected, id.status())) return;
    auto sequence = std::make_shared<ModelSequence>();
    sequence->layers.resize(static_cast<size_t>(cache->geometry.num_layers));
    sequence->state = state;
    sequence->state_version = state.empty() ? 0 : 1;
    Adopt(*id, by.session, cache, std::move(sequence));
  }
  void Fork() {
    const SequencePtr parent = AnySequence();
    if (parent == nullptr) return;
    const int64_t longest = parent->longest();
    std::optional<TokenCount> length;
    if (OneIn(2)) length = TokenCount(Below(longest + 2));
    const int64_t shared = length.value_or(TokenCount(longest)).value();
    const SessionRef by = RefOf(*parent);
    absl::StatusCode expected = Authorize(by, *parent);
    if (expected == absl::StatusCode::kOk) {
      if (parent->pins > 0 || shared > longest) {
        expected = absl::StatusCode::kFailedPrecondition;
      } else if (std::ssize(sequences_) >= kMaxSequences) {
        expected = absl::StatusCode::kResourceExhausted;
      }
    }
    const absl::StatusOr<SequenceId> id = kv_->Fork(by, parent->id, length);
    if (!Expect(expected, id.status())) return;
    parent->promises_hold = false;
    auto child = std::make_shared<ModelSequence>();
    child->layers.resize(parent->layers.size());
    child->state = parent->state;
    child->state_version = parent->state_version;
    for (size_t i = 0; i < child->layers.size(); ++i) {
      const std::vector<uint64_t>& marks = parent->layers[i].marks;
      child->layers[i].marks.assign(marks.begin(),
                                    marks.begin() + std::min<int64_t>(shared, std::ssize(marks)));
    }
    child->table.assign(parent->table.begin(),
                        parent->table.begin() + static_cast<ptrdiff_t>(parent->PagesFor(shared)));
    Adopt(*id, parent->session, parent->cache, std::move(child));
  }

  void Truncate() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr) return;
    const int64_t length = Below(sequence->longest() + 2);
    const SessionRef by = RefOf(*sequence);
    absl::StatusCode expected = Authorize(by, *sequence);
    if (expected == absl::StatusCode::kOk && sequence->pins > 0) {
      expected = absl::StatusCode::kFailedPrecondition;
    }
    if (!Expect(expected, kv_->Truncate(by, sequence->id, TokenCount(length)))) return;
    for (ModelLayer& layer : sequence->layers) {
      if (std::ssize(layer.marks) > length) layer.marks.resize(static_cast<size_t>(length));
    }
    sequence->DropPagesBeyondLongest();
  }

  void Free() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr || (sequences_.size() < 20 && OneIn(2))) return;
    const SessionRef by = RefOf(*sequence);
    absl::StatusCode expected = Authorize(by, *sequence);
    if (expected == absl::StatusCode::kOk && sequence->pins > 0) {
      expected = absl::StatusCode::kFailedPrecondition;
    }
    if (Expect(expected, kv_->Free(by, sequence->id))) Bury(sequence);
  }
  void SetClientState() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr) return;
    const SessionRef by = RefOf(*sequence);
    const uint64_t version = sequence->state_version + (OneIn(4) ? 1 : 0);
    absl::StatusCode expected = Authorize(by, *sequence);
    if (expected == absl::StatusCode::kOk && version != sequence->state_version) {
      expected = absl::StatusCode::kAborted;
    }
    const std::string state = std::to_string(random_());
    const auto set = kv_->SetClientState(by, sequence->id, version, state);
    if (!Expect(expected, set.status())) return;
    sequence->state = state;
    EXPECT_EQ(*set, ++sequence->state_version);
  }

  // A freed sequence, or one of another session.
  void UseStaleId() {
    const auto session = AnySession();
    if (session == sessions_.end()) return;
    const SessionRef by = session->second.grant.ref;
    SequenceId id(ObjectId{.boot = 2, .slot = 0, .generation = 1});  // of an earlier daemon
    const SequencePtr sequence = AnySequence();
    if (sequence != nullptr && sequence->session != by.session) id = sequence->id;
    if (!dead_.empty() && OneIn(2)) {
      id = dead_[static_cast<size_t>(Below(static_cast<int64_t>(dead_.size())))];
    }
    Authorize(by);
    const LayerAccess access{
        .by = by, .sequence = id, .write = true, .step = 1, .num_tokens = TokenCount(1)};
    Expect(absl::StatusCode::kNotFound, kv_->Reserve(access).status());
    Expect(absl::StatusCode::kNotFound, kv_->Pin(access, PageReservation()).status());
    Expect(absl::StatusCode::kNotFound, kv_->Free(by, id));
    Expect(absl::StatusCode::kNotFound, kv_->Fork(by, id, std::nullopt).status());
  }

  void CompareInfos() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr) return;
    const SessionRef by = RefOf(*sequence);
    const absl::StatusCode expected = Authorize(by, *sequence);
    const absl::StatusOr<SequenceInfo> info = kv_->Describe(by, sequence->id);
    if (!Expect(expected, info.status())) return;
    for (size_t i = 0; i < sequence->layers.size(); ++i) {
      EXPECT_EQ(info->layer_lengths[i], std::ssize(sequence->layers[i].marks));
      EXPECT_EQ(info->layer_steps[i], sequence->layers[i].step);
    }
    EXPECT_EQ(info->pages.value(), std::ssize(sequence->table));
    EXPECT_EQ(info->cache, sequence->cache->id);
    EXPECT_EQ(info->client_state, sequence->state);
    EXPECT_EQ(info->client_state_version, sequence->state_version);
    CheckContents(*sequence);
  }

  // Every token of every layer, through a lease.
  void CheckContents(const ModelSequence& sequence) {
    const auto session = sessions_.find(sequence.session);
    for (size_t i = 0; i < sequence.layers.size(); ++i) {
      const std::vector<uint64_t>& marks = sequence.layers[i].marks;
      const LayerAccess access{.by = session->second.grant.ref,
                               .sequence = sequence.id,
                               .layer = LayerIndex(static_cast<uint32_t>(i)),
                               .num_tokens = TokenCount(1),
                               .kv_length = TokenCount(std::ssize(marks))};
      const absl::StatusCode expected = Authorize(access.by, sequence);
      const absl::StatusOr<PageLease> lease = kv_->Pin(access, PageReservation());
      if (!Expect(expected, lease.status())) return;
      for (size_t t = 0; t < marks.size(); ++t) {
        ASSERT_EQ(ReadToken(lease->view(), lease->page_offsets(), static_cast<int64_t>(t)),
                  marks[t]);
      }
    }
  }

  // --- Sessions, caches, time.

  void OpenSession() {
    const absl::StatusCode expected = std::ssize(sessions_) < kMaxSessions
                                          ? absl::StatusCode::kOk
                                          : absl::StatusCode::kResourceExhausted;
    const std::string& tenant = kTenants[Below(std::ssize(kTenants))];
    const absl::StatusOr<SessionGrant> grant =
        kv_->OpenSession(Duration::zero(), "property", tenant);
    if (!Expect(expected, grant.status())) return;
    sessions_[grant->ref.session] = {
        .grant = *grant, .lease_end = clock_.Now() + kLease, .tenant = tenant};
  }

  void ResumeSession() {
    const auto session = AnySession();
    if (session == sessions_.end()) return;
    SessionGrant& grant = session->second.grant;
    const bool expired = clock_.Now() >= session->second.lease_end;
    auto resumed = kv_->ResumeSession(grant.token, Duration::zero());
    if (!Expect(expired ? absl::StatusCode::kNotFound : absl::StatusCode::kOk, resumed.status())) {
      return;
    }
    if (OneIn(3)) {  // the answer is lost, the client asks again
      const SessionGrant lost =
          *std::exchange(resumed, kv_->ResumeSession(grant.token, Duration::zero()));
      if (!Expect(absl::StatusCode::kOk, resumed.status())) return;
      EXPECT_EQ(resumed->ref.epoch, lost.ref.epoch + 1);
      Expect(absl::StatusCode::kAborted, kv_->RenewLease(lost.ref).status());
      Expect(absl::StatusCode::kNotFound,
             kv_->ResumeSession(lost.token, Duration::zero()).status());
    } else {
      EXPECT_EQ(resumed->ref.epoch, grant.ref.epoch + 1);
    }
    // Once the new epoch has been used, not before.
    Expect(absl::StatusCode::kOk, kv_->RenewLease(resumed->ref).status());
    Expect(absl::StatusCode::kNotFound, kv_->ResumeSession(grant.token, Duration::zero()).status());
    grant = *resumed;
    session->second.lease_end = clock_.Now() + grant.lease;
  }

  void CloseSession() {
    const auto session = AnySession();
    if (session != sessions_.end()) CloseSession(session->second.grant.ref);
  }
  void CloseSession(SessionRef by) {
    std::vector<SequencePtr> own;
    bool pinned = false;
    for (const SequencePtr& sequence : sequences_) {
      if (sequence->session != by.session) continue;
      own.push_back(sequence);
      pinned = pinned || sequence->pins > 0;
    }
    const absl::StatusCode expected =
        pinned ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kOk;
    if (!Expect(expected, kv_->CloseSession(by))) return;
    for (const SequencePtr& sequence : own) Bury(sequence);
    sessions_.erase(by.session);
  }

  void LetTimePass() {
    clock_.Advance(OneIn(20) ? kLease : kLease / 8);
    for (const SessionRef& expired : kv_->ExpiredSessions()) {
      const auto session = sessions_.find(expired.session);
      ASSERT_NE(session, sessions_.end());
      EXPECT_GE(clock_.Now(), session->second.lease_end);
      EXPECT_EQ(expired.epoch, session->second.grant.ref.epoch);
      if (!OneIn(4)) CloseSession(expired);
    }
    if (sessions_.empty()) OpenSession();
  }

  void OpenCache(int index) {
    const int64_t quota = OneIn(2) ? 20 + Below(60) : 0;
    const CacheGeometry& geometry = kGeometries[index];
    auto cache = std::make_unique<ModelCache>();
    cache->name = "cache-" + std::to_string(index);
    const auto opened = kv_->OpenCache(cache->name, geometry, PageCount(quota));
    if (!Expect(absl::StatusCode::kOk, opened.status())) return;
    EXPECT_TRUE(opened->created);
    cache->id = opened->info.cache;
    cache->geometry = geometry;
    cache->layout = opened->info.layout;
    cache->quota = quota;
    caches_[static_cast<size_t>(index)] = std::move(cache);
  }

  void ReopenCache() {
    const size_t index = static_cast<size_t>(Below(kNumGeometries));
    ModelCache& cache = *caches_[index];
    const bool empty = cache.num_sequences == 0;
    const absl::StatusCode expected =
        empty ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition;
    if (!Expect(expected, kv_->CloseCache(cache.id))) return;
    std::erase_if(prefixes_, [&](const auto& prefix) { return prefix.first.cache == &cache; });
    Expect(absl::StatusCode::kNotFound, kv_->CloseCache(cache.id));
    EXPECT_EQ(cache.num_pages, 0);
    std::erase_if(reservations_, [&](const ModelReservation& reservation) {
      return reservation.sequence->cache == &cache;
    });
    OpenCache(static_cast<int>(index));
  }
};

}  // namespace attnd
