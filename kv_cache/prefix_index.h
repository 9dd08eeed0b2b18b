// SPDX-License-Identifier: Apache-2.0
//
// Published pages of one cache on one device, by the content keys that clients gave them.
//
// A key is looked up for a tenant: another tenant's page cannot be found, whatever the key. The
// index holds one reference on each page, so that a write into it copies, and keeps the page when
// no sequence does: then it is idle, and is evicted when pages run out. The order of eviction is
// that of last use; among the pages of one use those deeper in their run go first, since a run is
// matched from its head. A page has one key, a key of a tenant one page.
//
// Bounded by the cache's pages: about 250 bytes for each that is published. A lookup is O(1); a
// page that becomes idle or is taken up again, O(log idle pages). Not thread-safe: KvCache's lock
// guards it.
//
//   std::vector<PageId> run = index.Match("tenant", keys);
//   index.Touch(run); sequence.pages().Share(run);
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/units.h"
#include "kv_cache/page_allocator.h"

namespace attnd {

inline constexpr size_t kMinPrefixKeyBytes = 16;
inline constexpr size_t kMaxPrefixKeyBytes = 64;
inline constexpr size_t kMaxPrefixKeys = 1 << 16;  // of one call

// INVALID_ARGUMENT names the key that is too short or too long.
absl::Status CheckPrefixKeys(std::span<const std::string_view> keys);

// Shared by all indexes of a KvCache, so that their ages compare.
struct PrefixUse {
  uint64_t stamp = 0;  // of the last use of any page
  uint64_t pages_evicted_total = 0;
};

class PrefixIndex final : public PublishedPages {
 public:
  // Both outlive the index, which gives up its references when destroyed.
  PrefixIndex(PageAllocator& pages, PrefixUse& use);
  ~PrefixIndex();
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // The pages of the longest run: in the order of `keys`, up to the first that is not published.
  std::vector<PageId> Match(std::string_view tenant, std::span<const std::string_view> keys) const;
  // The pages were used now, together. Those that are not published are ignored.
  void Touch(std::span<const PageId> run);

  // Publishes the pages from `first_page` on of a sequence that holds `pages`, which a use of all
  // the pages up to the last of them. Returns how many keys are new; a known key keeps its page.
  // FAILED_PRECONDITION, and nothing has changed, where a page is published under another key.
  absl::StatusOr<size_t> Publish(std::string_view tenant, std::span<const std::string_view> keys,
                                 std::span<const PageId> pages, size_t first_page);
  // Forgets everything.
  void Clear();

  size_t size() const { return by_page_.size(); }
  // visit(PageId) for each published page.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& [page, entry] : by_page_) visit(page);
  }
  absl::Status CheckIntegrity() const;

  // PublishedPages.
  void PageIdle(PageId page) override;
  void PageHeld(PageId page) override;
  PageId OldestIdle() const override { return idle_.begin()->page; }
  uint64_t LastUse(PageId page) const override { return by_page_.at(page)->last_use; }
  void Evict(PageId page) override;

 private:
  struct Entry;
  // By tenant and key, both never iterated but to check them; tenants with published pages only.
  using Tenants = std::map<std::string, absl::flat_hash_map<std::string_view, Entry*>, std::less<>>;
  struct Entry {
    Tenants::iterator tenant;
    std::string key;
    PageId page{};
    size_t depth = 0;  // index of the page in its run
    uint64_t last_use = 0;
    bool idle = false;
  };
  // In the order of eviction.
  struct IdlePage {
    uint64_t last_use;
    size_t depth;
    PageId page;
    friend bool operator<(const IdlePage& a, const IdlePage& b) {
      if (a.last_use != b.last_use) return a.last_use < b.last_use;
      if (a.depth != b.depth) return a.depth > b.depth;
      return a.page < b.page;
    }
  };

  static IdlePage PlaceOf(const Entry& entry) {
    return {.last_use = entry.last_use, .depth = entry.depth, .page = entry.page};
  }
  void Touch(Entry& entry, uint64_t stamp);
  void Insert(Tenants::iterator tenant, std::string_view key, PageId page, size_t depth);
  void Forget(PageId page);

  PageAllocator& pages_;
  PrefixUse& use_;
  Tenants tenants_;
  absl::flat_hash_map<PageId, std::unique_ptr<Entry>> by_page_;
  absl::btree_set<IdlePage> idle_;
};

}  // namespace attnd
