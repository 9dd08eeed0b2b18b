// SPDX-License-Identifier: Apache-2.0
//
// The state of the property test's random walk: the cache, the model of it, and what both must
// agree on.
//
// Not thread-safe. Failures are reported through GoogleTest.
//
//   class Walk : public PropertyState { void Step() { Expect(Authorize(by), kv_->...); } };
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/kv_cache/cache_fixture.h"
#include "tests/unit/kv_cache/cache_model.h"

namespace attnd {

inline constexpr int64_t kPoolSuperblocks = 12;
inline constexpr int64_t kMaxLength = 160;
inline constexpr Duration kLease = std::chrono::seconds(60);
inline constexpr int64_t kMaxSequences = 48;
inline constexpr int64_t kMaxSessions = 5;
inline const std::string kTenants[] = {"", "tenant"};

// Geometries that differ in everything: pages of 8, 96, 48 and 160 KiB, the last in slabs of three
// superblocks.
inline const CacheGeometry kGeometries[] = {
    {2, 2, 2, 64, 64, DType::kF32, 4},
    {3, 8, 4, 256, 256, DType::kF32, 4},
    {1, 8, 8, 256, 128, DType::kF16, 8},
    {5, 4, 4, 256, 256, DType::kF32, 4},
};
inline constexpr int kNumGeometries = 4;

class PropertyState {
 public:
  // `limit_superblocks` is that of the only tenant; 0: none.
  PropertyState(uint64_t seed, bool poison, int64_t limit_superblocks)
      : limit_bytes_(static_cast<uint64_t>(limit_superblocks) * kSuperblockBytes.value()),
        random_(seed),
        memory_(kPoolSuperblocks) {
    KvCache::Options options{.boot = seed | 1, .default_lease = kLease};
    options.poison_free_pages = poison;
    options.max_sequences = kMaxSequences;
    options.max_sessions = kMaxSessions + std::ssize(kTenants);
    kv_ = std::make_unique<KvCache>(memory_.span(), options, clock_);
    kv_->SetTenant(TenantIndex(0), "", {.kv_bytes = Bytes(limit_bytes_)});
    for (const std::string& tenant : kTenants) {
      observers_[tenant] = kv_->OpenSession(options.max_lease, "observer", tenant)->ref;
    }
  }

  // The cheap subset: counts against the model's.
  void CheckCounts() {
    const KvCacheStats stats = kv_->Stats();
    uint64_t slab_bytes = 0;
    size_t next = 0;
    ASSERT_EQ(stats.num_sequences, static_cast<int64_t>(sequences_.size()));
    for (const auto& cache : caches_) {
      if (cache == nullptr) continue;
      const auto info =
          std::find_if(stats.caches.begin(), stats.caches.end(),
                       [&](const CacheInfo& info) { return info.cache == cache->id; });
      ASSERT_NE(info, stats.caches.end());
      ++next;
      ASSERT_GE(info->used.value(), static_cast<int64_t>(cache->held.size()));
      ASSERT_LE(info->used.value(), cache->num_pages);
      ASSERT_EQ((info->used + info->cached + info->free).value(),
                info->num_slabs * info->layout.pages_per_slab);
      ASSERT_LE(info->reserved, info->free);
      if (cache->num_reservations == 0) {
        ASSERT_EQ(info->reserved, PageCount(0));
      }
      if (cache->quota > 0) {
        ASSERT_LE((info->used + info->cached + info->reserved).value(), cache->quota);
      }
      ASSERT_EQ(info->num_sequences, cache->num_sequences);
      slab_bytes += static_cast<uint64_t>(info->num_slabs) * info->layout.slab_bytes().value();
    }
    ASSERT_EQ(next, stats.caches.size());
    ASSERT_TRUE(limit_bytes_ == 0 || slab_bytes <= limit_bytes_);
    ASSERT_EQ(slab_bytes + stats.pool_free_bytes.value(), stats.pool_bytes.value());
  }

  void CheckIntegrity() {
    const auto report = kv_->CheckIntegrity();
    ASSERT_TRUE(report.ok()) << report.status();
  }
  const std::map<absl::StatusCode, int64_t>& outcomes() const { return outcomes_; }
  int64_t operations() const { return operations_; }
  KvCacheStats stats() const { return kv_->Stats(); }

 protected:
  using SequencePtr = std::shared_ptr<ModelSequence>;

  struct PrefixName {
    ModelCache* cache;
    std::string tenant, key;
    auto operator<=>(const PrefixName&) const = default;
  };

  // No sequence holds its page, nor did one that may still be pinned.
  bool SurelyIdle(const ModelPrefix& prefix) const {
    return prefix.page->tables + prefix.page->leases == 0 && !Lingers(*prefix.page);
  }
  // Whether a page left some other table and may still be copied from.
  bool Lingers(const ModelPage& page) const {
    return std::any_of(sequences_.begin(), sequences_.end(), [&](const SequencePtr& sequence) {
      return std::any_of(sequence->lingering.begin(), sequence->lingering.end(),
                         [&](const auto& lingering) { return lingering.get() == &page; });
    });
  }

  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

  // Null where there is none.
  SequencePtr AnySequence() {
    if (sequences_.empty()) return nullptr;
    return sequences_[static_cast<size_t>(Below(static_cast<int64_t>(sequences_.size())))];
  }
  std::map<SessionId, ModelSession>::iterator AnySession() {
    if (sessions_.empty()) return sessions_.end();
    return std::next(sessions_.begin(), Below(static_cast<int64_t>(sessions_.size())));
  }
  // The current reference, or now and then that of a client that was replaced.
  SessionRef RefOf(const ModelSequence& sequence) {
    const auto session = sessions_.find(sequence.session);
    SessionRef ref{.session = sequence.session, .epoch = 1};
    if (session != sessions_.end()) ref = session->second.grant.ref;
    if (OneIn(200)) ref.epoch += OneIn(2) ? 1 : -1;
    return ref;
  }

  // What the check of the session will say; renews its lease as the cache does.
  absl::StatusCode Authorize(SessionRef by) {
    const auto found = sessions_.find(by.session);
    if (found == sessions_.end()) return absl::StatusCode::kNotFound;
    ModelSession& session = found->second;
    if (clock_.Now() >= session.lease_end) return absl::StatusCode::kNotFound;
    const uint64_t epoch = session.grant.ref.epoch;
    if (by.epoch < epoch) return absl::StatusCode::kAborted;
    if (by.epoch > epoch) return absl::StatusCode::kInvalidArgument;
    session.lease_end = clock_.Now() + session.grant.lease;
    return absl::StatusCode::kOk;
  }
  absl::StatusCode Authorize(SessionRef by, const ModelSequence& sequence) {
    const absl::StatusCode code = Authorize(by);
    if (code == absl::StatusCode::kOk && !sequence.alive) return absl::StatusCode::kNotFound;
    return code;
  }

  void Count(absl::StatusCode code) {
    ++outcomes_[code];
    ++operations_;
  }
  bool Expect(absl::StatusCode expected, const absl::Status& got) {
    Count(got.code());
    EXPECT_EQ(got.code(), expected) << got;
    return got.ok() && got.code() == expected;
  }
  void Adopt(SequenceId id, SessionId session, ModelCache* cache, SequencePtr sequence) {
    for (SequenceId dead : dead_) EXPECT_NE(id, dead) << "an id was given out again";
    sequence->id = id;
    sequence->session = session;
    sequence->cache = cache;
    ++cache->num_sequences;
    sequences_.push_back(std::move(sequence));
  }
  void Bury(const SequencePtr& sequence) {
    sequence->alive = false;
    sequence->table.clear();
    --sequence->cache->num_sequences;
    sequence->cache->num_reservations -= sequence->reservations;
    dead_.push_back(sequence->id);
    if (dead_.size() > 64) dead_.erase(dead_.begin());
    std::erase(sequences_, sequence);
  }
  const uint64_t limit_bytes_;
  std::mt19937_64 random_;
  PoolMemory memory_;
  FakeClock clock_;
  std::unique_ptr<KvCache> kv_;
  std::array<std::unique_ptr<ModelCache>, kNumGeometries> caches_;
  std::map<SessionId, ModelSession> sessions_;
  std::vector<SequencePtr> sequences_;
  std::map<PrefixName, ModelPrefix> prefixes_;
  std::map<std::string, SessionRef> observers_;  // by tenant; not in sessions_
  uint64_t last_use_ = 0;
  uint64_t pages_evicted_ = 0;  // that the model knows of
  std::vector<SequenceId> dead_;
  std::vector<ModelReservation> reservations_;
  std::vector<ModelLease> leases_;
  uint64_t last_mark_ = 0;
  int64_t steps_ = 0;
  int64_t operations_ = 0;
  std::map<absl::StatusCode, int64_t> outcomes_;
};

}  // namespace attnd
