// SPDX-License-Identifier: Apache-2.0
//
// What an admitted item holds (a promise of pages) and what a launched item holds (pinned pages).
//
// Both are move-only and give back what they hold when destroyed; they must not outlive their
// KvCache. A single lease or reservation is used by one thread at a time.
//
//   item.kv.page_offsets = lease.page_offsets().data();
//   if (lease.replayed()) item.new_k = item.new_v = {};   // the step was applied before
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/attention/params.h"
#include "kernels/base/units.h"
#include "kv_cache/geometry.h"
#include "kv_cache/ids.h"

namespace attnd {

// Implemented by the cache; how handles give back.
class LeaseOwner {
 public:
  virtual void ReturnReservation(SequenceId sequence) = 0;
  // What the lease kept alive, replaced pages and the sources of its copies too, is let go.
  struct Pinned {
    SequenceId sequence{};
    int phase = 0;  // see pin_phases.h
  };
  virtual void Unpin(Pinned pinned) = 0;

 protected:
  ~LeaseOwner() = default;
};

// Pages promised to a queued item of `sequence`. Unused promises return when the sequence's last
// reservation goes.
class PageReservation {
 public:
  PageReservation() = default;
  PageReservation(LeaseOwner* owner, SequenceId sequence) : owner_(owner), sequence_(sequence) {}
  PageReservation(PageReservation&& other) noexcept { *this = std::move(other); }
  PageReservation& operator=(PageReservation&& other) noexcept {
    if (this != &other) {
      Release();
      owner_ = std::exchange(other.owner_, nullptr);
      sequence_ = other.sequence_;
    }
    return *this;
  }
  ~PageReservation() { Release(); }

  void Release() {
    if (owner_ != nullptr) std::exchange(owner_, nullptr)->ReturnReservation(sequence_);
  }

  // False for one that holds nothing: default, moved from, released, or of a read.
  bool active() const { return owner_ != nullptr; }
  SequenceId sequence() const { return sequence_; }
  // The cache takes the promise over, in Pin: nothing is given back here. Returns its owner.
  LeaseOwner* Detach() { return std::exchange(owner_, nullptr); }

 private:
  LeaseOwner* owner_ = nullptr;
  SequenceId sequence_;
};

// The pages of one sequence, pinned for a launch over one of its layers.
class PageLease {
 public:
  // What the launch needs to know. All pointers are into the pool.
  struct View {
    DeviceIndex device{};             // whose pool it is
    std::byte* layer_base = nullptr;  // the pool's base plus the layer's stride times its index
    CacheGeometry geometry{};
    SlabLayout layout{};
    TokenCount start_position{};
    TokenCount kv_len{};        // tokens to attend over: the end of the write, or of the read
    TokenCount layer_length{};  // after the item
    bool replayed = false;      // the step was applied before: write nothing
  };

  PageLease() = default;
  PageLease(LeaseOwner* owner, const View& view, std::shared_ptr<const uint64_t[]> offsets,
            size_t num_pages, std::vector<PageCopy> copies, LeaseOwner::Pinned pinned)
      : owner_(owner),
        view_(view),
        offsets_(std::move(offsets)),
        num_pages_(num_pages),
        copies_(std::move(copies)),
        pinned_(pinned) {}
  PageLease(PageLease&& other) noexcept { *this = std::move(other); }
  PageLease& operator=(PageLease&& other) noexcept {
    if (this != &other) {
      Release();
      owner_ = std::exchange(other.owner_, nullptr);
      view_ = other.view_;
      offsets_ = std::move(other.offsets_);
      num_pages_ = other.num_pages_;
      copies_ = std::move(other.copies_);
      pinned_ = other.pinned_;
    }
    return *this;
  }
  ~PageLease() { Release(); }

  const View& view() const { return view_; }
  bool replayed() const { return view_.replayed; }
  // [ceil(kv_len / page_size)] layer-0 byte offsets; valid and unchanged as long as the lease.
  std::span<const uint64_t> page_offsets() const {
    return offsets_ ? std::span(offsets_.get(), num_pages_) : std::span<const uint64_t>();
  }
  // To be executed, in order, before the launch. Leases of one sequence launch in the order in
  // which they were pinned: a later one may read what an earlier one copies.
  std::span<const PageCopy> copies() const { return copies_; }

  void Release() {
    if (owner_ != nullptr) std::exchange(owner_, nullptr)->Unpin(pinned_);
    offsets_.reset();
  }

 private:
  LeaseOwner* owner_ = nullptr;
  View view_;
  std::shared_ptr<const uint64_t[]> offsets_;
  size_t num_pages_ = 0;
  std::vector<PageCopy> copies_;
  LeaseOwner::Pinned pinned_;
};

}  // namespace attnd
