// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/prefix_index.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kv_cache/check.h"

namespace attnd {
namespace {

constexpr size_t kShownKeyBytes = 16;

}  // namespace

absl::Status CheckPrefixKeys(std::span<const std::string_view> keys) {
  if (keys.size() > kMaxPrefixKeys) {
    return absl::InvalidArgumentError(
        absl::StrFormat("keys: %d of them, expected at most %d", keys.size(), kMaxPrefixKeys));
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::string_view key = keys[i];
    if (key.size() >= kMinPrefixKeyBytes && key.size() <= kMaxPrefixKeyBytes) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "keys[%d]: %d bytes (%s%s), expected %d to %d", i, key.size(),
        absl::BytesToHexString(absl::string_view(key.data(), std::min(key.size(), kShownKeyBytes))),
        key.size() > kShownKeyBytes ? "..." : "", kMinPrefixKeyBytes, kMaxPrefixKeyBytes));
  }
  return absl::OkStatus();
}

PrefixIndex::PrefixIndex(PageAllocator& pages, PrefixUse& use) : pages_(pages), use_(use) {
  pages_.SetIndex(*this);
}

PrefixIndex::~PrefixIndex() { Clear(); }

std::vector<PageId> PrefixIndex::Match(std::string_view tenant,
                                       std::span<const std::string_view> keys) const {
  std::vector<PageId> run;
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return run;
  for (const std::string_view key : keys) {
    const auto entry = found->second.find(key);
    if (entry == found->second.end()) break;
    run.push_back(entry->second->page);
  }
  return run;
}

void PrefixIndex::Touch(std::span<const PageId> run) {
  const uint64_t stamp = ++use_.stamp;
  for (const PageId page : run) {
    if (const auto entry = by_page_.find(page); entry != by_page_.end()) {
      Touch(*entry->second, stamp);
    }
  }
}

absl::StatusOr<size_t> PrefixIndex::Publish(std::string_view tenant_name,
                                            std::span<const std::string_view> keys,
                                            std::span<const PageId> pages, size_t first_page) {
  ATTND_CHECK(first_page + keys.size() <= pages.size(), "published pages that do not exist");
  if (keys.empty()) return 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto known = by_page_.find(pages[first_page + i]);
    if (known == by_page_.end() || known->second->key == keys[i]) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "page ", first_page + i, " is published under another key than keys[", i, "]"));
  }
  Tenants::iterator tenant = tenants_.find(tenant_name);
  if (tenant == tenants_.end()) tenant = tenants_.try_emplace(std::string(tenant_name)).first;
  size_t num_new = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (tenant->second.contains(keys[i])) continue;
    Insert(tenant, keys[i], pages[first_page + i], first_page + i);
    ++num_new;
  }
  // A key that another page has keeps it: that page was used, too.
  Touch(pages.first(first_page + keys.size()));
  for (const std::string_view key : keys) Touch(*tenant->second.at(key), use_.stamp);
  return num_new;
}

void PrefixIndex::Insert(Tenants::iterator tenant, std::string_view key, PageId page,
                         size_t depth) {
  auto entry = std::make_unique<Entry>();
  entry->tenant = tenant;
  entry->key = std::string(key);
  entry->page = page;
  entry->depth = depth;
  tenant->second.emplace(entry->key, entry.get());
  pages_.Publish(page);
  by_page_.emplace(page, std::move(entry));
}

void PrefixIndex::Clear() {
  idle_.clear();
  for (const auto& [page, entry] : by_page_) pages_.Unpublish(page);
  tenants_.clear();
  by_page_.clear();
}

void PrefixIndex::PageIdle(PageId page) {
  Entry& entry = *by_page_.at(page);
  entry.idle = true;
  idle_.insert(PlaceOf(entry));
}

void PrefixIndex::PageHeld(PageId page) {
  Entry& entry = *by_page_.at(page);
  idle_.erase(PlaceOf(entry));
  entry.idle = false;
}

void PrefixIndex::Evict(PageId page) {
  const auto found = by_page_.find(page);
  ATTND_CHECK(found != by_page_.end() && found->second->idle, "evicted a page that is held");
  const Entry& entry = *found->second;
  idle_.erase(PlaceOf(entry));
  entry.tenant->second.erase(entry.key);
  if (entry.tenant->second.empty()) tenants_.erase(entry.tenant);
  by_page_.erase(found);
  ++use_.pages_evicted_total;
  pages_.Unpublish(page);
}

void PrefixIndex::Touch(Entry& entry, uint64_t stamp) {
  if (!entry.idle) {
    entry.last_use = stamp;
    return;
  }
  idle_.erase(PlaceOf(entry));
  entry.last_use = stamp;
  idle_.insert(PlaceOf(entry));
  pages_.TouchIdle(entry.page);
}

absl::Status PrefixIndex::CheckIntegrity() const {
  size_t num_keys = 0, num_idle = 0;
  for (const auto& [name, by_key] : tenants_) {
    if (by_key.empty()) return absl::InternalError("prefixes: a tenant has none");
    num_keys += by_key.size();
  }
  for (const auto& [page, entry] : by_page_) {
    const auto found = entry->tenant->second.find(entry->key);
    if (found == entry->tenant->second.end() || found->second != entry.get() ||
        entry->page != page) {
      return absl::InternalError(
          absl::StrFormat("prefixes: page %d is not found by its key", page.value()));
    }
    const bool idle = pages_.holders(page) == 0;
    if (!pages_.published(page) || entry->idle != idle || idle_.contains(PlaceOf(*entry)) != idle) {
      return absl::InternalError(absl::StrFormat("prefixes: page %d has %d holders and is %s",
                                                 page.value(), pages_.holders(page),
                                                 !pages_.published(page) ? "not published"
                                                 : entry->idle           ? "idle"
                                                                         : "held"));
    }
    if (idle) ++num_idle;
  }
  if (num_keys != by_page_.size() || num_idle != idle_.size() ||
      PageCount(static_cast<int64_t>(num_idle)) != pages_.idle()) {
    return absl::InternalError(
        absl::StrFormat("prefixes: %d keys of %d pages, %d idle of %d listed and %d counted",
                        num_keys, by_page_.size(), num_idle, idle_.size(), pages_.idle().value()));
  }
  return absl::OkStatus();
}

}  // namespace attnd
