// SPDX-License-Identifier: Apache-2.0
//
// What the property test believes: a plain second bookkeeping of the KV cache, sharing no code with
// it.
//
// A model page counts its holders: the block tables it is in and the leases that read it. It must
// exist while it has one, and may exist longer only while its former sequence is pinned or it is
// published. Not thread-safe.
//
//   std::vector<TableRef> table{TableRef(std::make_shared<ModelPage>(cache, offset))};
//   std::vector<LeaseRef> read(table.begin(), table.end());
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kv_cache/kv_cache.h"

namespace attnd {

struct ModelPage;

struct ModelCache {
  CacheId id;
  std::string name;
  CacheGeometry geometry;
  SlabLayout layout;
  int64_t quota = 0;
  int64_t num_sequences = 0;
  int64_t num_reservations = 0;                   // of live sequences
  std::unordered_map<uint64_t, ModelPage*> held;  // pages with a holder, by offset
  int64_t num_pages = 0;                          // these, and those that may linger
  int64_t num_drops = 0;                          // pages that lost their last holder, so far
  int64_t num_drops_before = 0;                   // and before the step that goes on
};

struct ModelPage {
  ModelPage(ModelCache* cache, uint64_t offset) : cache(cache), offset(offset) {
    ++cache->num_pages;
  }
  ~ModelPage() { --cache->num_pages; }
  ModelPage(const ModelPage&) = delete;
  ModelPage& operator=(const ModelPage&) = delete;

  void AddHolder(int64_t ModelPage::*counter) {
    if (tables + leases == 0) {
      EXPECT_TRUE(cache->held.emplace(offset, this).second) << "page " << offset << " owned twice";
    }
    ++(this->*counter);
  }
  void RemoveHolder(int64_t ModelPage::*counter) {
    --(this->*counter);
    if (tables + leases > 0) return;
    cache->held.erase(offset);
    dropped = ++cache->num_drops;
  }

  ModelCache* cache;
  uint64_t offset;
  int64_t tables = 0;
  int64_t leases = 0;
  int64_t dropped = 0;  // the cache's num_drops when it lost its last holder
  std::string key;      // that it is published under; empty: it is not
};

// Holds a page; copies hold it too.
template <int64_t ModelPage::*kCounter>
class PageRef {
 public:
  explicit PageRef(std::shared_ptr<ModelPage> page) : page_(std::move(page)) {
    page_->AddHolder(kCounter);
  }
  template <int64_t ModelPage::*kOther>
  explicit PageRef(const PageRef<kOther>& other) : PageRef(other.page()) {}
  PageRef(const PageRef& other) : PageRef(other.page_) {}
  PageRef(PageRef&& other) noexcept : page_(std::move(other.page_)) {}
  PageRef& operator=(PageRef other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~PageRef() {
    if (page_ != nullptr) page_->RemoveHolder(kCounter);
  }

  const std::shared_ptr<ModelPage>& page() const { return page_; }
  const ModelPage* operator->() const { return page_.get(); }

 private:
  std::shared_ptr<ModelPage> page_;
};
using TableRef = PageRef<&ModelPage::tables>;
using LeaseRef = PageRef<&ModelPage::leases>;

struct ModelSession {
  SessionGrant grant;
  MonotonicTime lease_end;
  std::string tenant;
};

// A published page: it exists, whoever holds it, until it is evicted.
struct ModelPrefix {
  std::shared_ptr<ModelPage> page;
  std::vector<std::vector<uint64_t>> marks;  // [layer][page_size]
  int64_t depth = 0;                         // of the page in its run
  uint64_t last_use = 0;
};

struct ModelLayer {
  std::vector<uint64_t> marks;  // [length]
  uint64_t step = 0;
  int64_t start = 0, count = 0;  // of that step
};

struct ModelSequence {
  SequenceId id;
  SessionId session;
  ModelCache* cache = nullptr;
  bool alive = true;
  std::vector<ModelLayer> layers;
  std::vector<TableRef> table;
  std::string state;
  uint64_t state_version = 0;
  int64_t pins = 0;
  std::vector<std::shared_ptr<ModelPage>> lingering;  // left the table while pinned
  int64_t reservations = 0;
  // Nothing happened since the oldest reservation that may need more pages than were promised.
  bool promises_hold = true;

  int64_t page_size() const { return cache->geometry.page_size_tokens; }
  size_t PagesFor(int64_t tokens) const {
    return static_cast<size_t>((tokens + page_size() - 1) / page_size());
  }
  int64_t longest() const {
    size_t longest = 0;
    for (const ModelLayer& layer : layers) longest = std::max(longest, layer.marks.size());
    return static_cast<int64_t>(longest);
  }
  void DropPagesBeyondLongest() {
    const size_t keep = PagesFor(longest());
    if (table.size() > keep) promises_hold = false;
    while (table.size() > keep) {
      if (pins > 0) lingering.push_back(table.back().page());
      table.pop_back();
    }
  }
};

struct ModelLease {
  std::shared_ptr<ModelSequence> sequence;
  uint32_t layer = 0;
  PageLease lease;
  std::vector<uint64_t> offsets;
  std::vector<uint64_t> marks;  // [kv_len] what must be read until the end; 0: overwritten since
  std::vector<LeaseRef> pages;
};

struct ModelReservation {
  std::shared_ptr<ModelSequence> sequence;
  LayerAccess access;
  PageReservation reservation;
};

}  // namespace attnd
