// SPDX-License-Identifier: Apache-2.0
//
// Prefixes in the property test: random pages are published under the keys of a few chains, and
// sequences are created from these. Keys say nothing of contents here, as for the daemon: what must
// come back is what the first publisher of each key had in its page.
//
// What was evicted is found by asking for every page; it must have been held by no one, and be
// older than what is left. Not thread-safe.
//
//   class Walk : public PropertyPrefixes { void Step() { OneIn(2) ? Publish() : Reserve(); } };
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/unit/kv_cache/property_objects.h"

namespace attnd {

class PropertyPrefixes : public PropertyObjects {
 public:
  using PropertyObjects::PropertyObjects;

  int64_t tokens_matched() const { return tokens_matched_; }

  // After each step: forgets what was evicted in it.
  void FollowEvictions() {
    ForgetEvicted();
    for (const auto& cache : caches_) cache->num_drops_before = cache->num_drops;
  }

  // How many pages no sequence holds. Some may wait for leases.
  void CheckCached() {
    for (const CacheInfo& info : kv_->Stats().caches) {
      int64_t at_least = 0, at_most = 0;
      for (const auto& [name, prefix] : prefixes_) {
        if (name.cache->id != info.cache || prefix.page->tables > 0) continue;
        ++at_most;
        if (SurelyIdle(prefix)) ++at_least;
      }
      ASSERT_GE(info.cached.value(), at_least);
      ASSERT_LE(info.cached.value(), at_most);
    }
  }

 protected:
  void ForgetEvicted() {
    const KvCacheStats stats = kv_->Stats();
    const uint64_t evicted = stats.prefix_pages_evicted_total;
    const bool slab_moved = stats.slabs_moved_total != slabs_moved_;
    slabs_moved_ = stats.slabs_moved_total;
    if (evicted == pages_evicted_) return;
    std::vector<PrefixName> gone;
    for (const auto& [name, prefix] : prefixes_) {
      if (!IsPublished(name)) gone.push_back(name);
    }
    ASSERT_EQ(gone.size(), evicted - pages_evicted_);
    pages_evicted_ = evicted;
    std::vector<std::pair<ModelCache*, ModelPrefix>> lost;
    for (const PrefixName& name : gone) {
      lost.emplace_back(name.cache, prefixes_.at(name));
      EXPECT_EQ(lost.back().second.page->tables, 0) << "evicted a page that a sequence holds";
      prefixes_.at(name).page->key.clear();
      prefixes_.erase(name);
    }
    if (slab_moved) return;  // a slab's pages go together
    for (const auto& [cache, prefix] : lost) CheckOlderThanTheRest(cache, prefix);
  }

  void CreateFromPrefix() {
    const auto session = AnySession();
    ModelCache* cache = caches_[static_cast<size_t>(Below(kNumGeometries))].get();
    if (session == sessions_.end() || cache == nullptr) return;
    const SessionRef by = session->second.grant.ref;
    const int64_t page_size = cache->geometry.page_size_tokens;
    const int64_t num_tokens = 1 + Below(6 * page_size);
    const std::vector<std::string> keys = ChainKeys(Below(num_tokens / page_size + 1));
    absl::StatusCode expected = Authorize(by);
    if (expected == absl::StatusCode::kOk && std::ssize(sequences_) >= kMaxSequences) {
      expected = absl::StatusCode::kResourceExhausted;
    }
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    const Prefix prefix{.keys = views, .num_tokens = TokenCount(num_tokens)};
    const std::vector<ModelPrefix*> run = Run(cache, session->second.tenant, keys);
    const int64_t matched = std::min(std::ssize(run) * page_size, num_tokens - 1);
    const bool only_ask = OneIn(3);
    if (only_ask) {
      if (expected == absl::StatusCode::kResourceExhausted) expected = absl::StatusCode::kOk;
      const auto found = kv_->MatchPrefix(by, cache->id, prefix);
      if (!Expect(expected, found.status())) return;
      EXPECT_EQ(found->value(), matched);
      return;
    }
    const auto created = kv_->CreateSequence(by, cache->id, "", prefix);
    if (!Expect(expected, created.status())) return;
    ASSERT_EQ(created->matched.value(), matched);
    tokens_matched_ += matched;
    auto sequence = std::make_shared<ModelSequence>();
    sequence->layers.resize(static_cast<size_t>(cache->geometry.num_layers));
    for (size_t i = 0; i < sequence->layers.size(); ++i) {
      std::vector<uint64_t>& marks = sequence->layers[i].marks;
      for (const ModelPrefix* page : run) {
        marks.insert(marks.end(), page->marks[i].begin(), page->marks[i].end());
      }
      marks.resize(static_cast<size_t>(matched));
    }
    ++last_use_;
    for (ModelPrefix* page : run) page->last_use = last_use_;
    Adopt(created->sequence, by.session, cache, sequence);
    for (size_t i = 0; i < sequence->PagesFor(matched); ++i) {
      sequence->table.emplace_back(run[i]->page);
    }
    CheckContents(*sequence);
  }

  void Publish() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr) return;
    const SessionRef by = RefOf(*sequence);
    const int64_t page_size = sequence->page_size();
    int64_t complete = kMaxLength;
    for (const ModelLayer& layer : sequence->layers) {
      complete = std::min(complete, std::ssize(layer.marks) / page_size);
    }
    const int64_t end = Below(complete + 1) + (OneIn(10) ? 1 : 0);
    const int64_t first = OneIn(2) ? 0 : Below(end + 1);
    const std::vector<std::string> all = ChainKeys(end);
    const std::vector<std::string> keys(all.begin() + first, all.end());
    absl::StatusCode expected = Authorize(by, *sequence);
    if (expected == absl::StatusCode::kOk &&
        (sequence->pins > 0 || (!keys.empty() && end > complete) ||
         HasAnotherKey(*sequence, first, keys))) {
      expected = absl::StatusCode::kFailedPrecondition;
    }
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    const auto published = kv_->PublishPrefix(by, sequence->id, first, views);
    if (!Expect(expected, published.status())) return;
    EXPECT_EQ(published->pages.value(), std::ssize(keys));
    EXPECT_EQ(published->added.value(), ModelPublish(sequence, first, keys));
  }

 private:
  // Of one of a few prompts.
  std::vector<std::string> ChainKeys(int64_t count) {
    const int64_t chain = Below(6);
    std::vector<std::string> keys;
    for (int64_t i = 0; i < count; ++i) keys.push_back(absl::StrFormat("%8d %8d", chain, i));
    return keys;
  }

  std::vector<ModelPrefix*> Run(ModelCache* cache, const std::string& tenant,
                                const std::vector<std::string>& keys) {
    std::vector<ModelPrefix*> run;
    for (const std::string& key : keys) {
      const auto found = prefixes_.find({cache, tenant, key});
      if (found == prefixes_.end()) break;
      run.push_back(&found->second);
    }
    return run;
  }

  static bool HasAnotherKey(const ModelSequence& sequence, int64_t first,
                            const std::vector<std::string>& keys) {
    for (size_t i = 0; i < keys.size(); ++i) {
      const size_t index = static_cast<size_t>(first) + i;
      if (index >= sequence.table.size()) return false;
      const std::string& known = sequence.table[index]->key;
      if (!known.empty() && known != keys[i]) return true;
    }
    return false;
  }

  // Returns how many keys are new.
  int64_t ModelPublish(const SequencePtr& sequence, int64_t first,
                       const std::vector<std::string>& keys) {
    const std::string& tenant = sessions_.at(sequence->session).tenant;
    if (keys.empty()) return 0;
    int64_t added = 0;
    ++last_use_;
    for (size_t i = 0; i < keys.size(); ++i) {
      const size_t index = static_cast<size_t>(first) + i;
      const auto [entry, is_new] = prefixes_.try_emplace({sequence->cache, tenant, keys[i]});
      entry->second.last_use = last_use_;
      if (!is_new) continue;
      ++added;
      entry->second.page = sequence->table[index].page();
      entry->second.page->key = keys[i];
      entry->second.depth = static_cast<int64_t>(index);
      const auto begin = static_cast<ptrdiff_t>(index) * sequence->page_size();
      for (const ModelLayer& layer : sequence->layers) {
        entry->second.marks.emplace_back(layer.marks.begin() + begin,
                                         layer.marks.begin() + begin + sequence->page_size());
      }
    }
    // A use of the whole run: of all the pages before, too.
    for (size_t i = 0; i < static_cast<size_t>(first) + keys.size(); ++i) {
      if (sequence->table[i]->key.empty()) continue;
      prefixes_.at({sequence->cache, tenant, sequence->table[i]->key}).last_use = last_use_;
    }
    sequence->promises_hold = false;  // a queued write may need a copy now
    return added;
  }

  bool IsPublished(const PrefixName& name) {
    const std::string_view key = name.key;
    const TokenCount num_tokens(name.cache->geometry.page_size_tokens + 1);
    const auto found = kv_->MatchPrefix(observers_.at(name.tenant), name.cache->id,
                                        {.keys = {&key, 1}, .num_tokens = num_tokens});
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() && *found > TokenCount(0);
  }

  void CheckOlderThanTheRest(ModelCache* cache, const ModelPrefix& lost) {
    for (const auto& [name, kept] : prefixes_) {
      if (name.cache != cache || !SurelyIdle(kept)) continue;
      if (kept.page->dropped > cache->num_drops_before) continue;  // idle since the eviction
      EXPECT_TRUE(lost.last_use < kept.last_use ||
                  (lost.last_use == kept.last_use && lost.depth >= kept.depth))
          << "evicted a page of use " << lost.last_use << ", depth " << lost.depth
          << " and kept one of use " << kept.last_use << ", depth " << kept.depth;
    }
  }

  int64_t tokens_matched_ = 0;
  uint64_t slabs_moved_ = 0;
};

}  // namespace attnd
