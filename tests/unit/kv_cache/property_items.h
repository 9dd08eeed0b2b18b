// SPDX-License-Identifier: Apache-2.0
//
// The items of the property test: random reads and writes from admission to the end of their
// launch, their bytes written and read back. Not thread-safe.
//
//   class Walk : public PropertyItems { void Step() { OneIn(2) ? ReserveWrite() : PinReserved(); }
//   };
#pragma once

#include <algorithm>
#include <utility>

#include "tests/unit/kv_cache/page_bytes.h"
#include "tests/unit/kv_cache/property_state.h"

namespace attnd {

class PropertyItems : public PropertyState {
 public:
  using PropertyState::PropertyState;

 protected:
  LayerAccess RandomWrite(const ModelSequence& sequence) {
    const uint32_t layer = static_cast<uint32_t>(Below(sequence.cache->geometry.num_layers));
    const ModelLayer& state = sequence.layers[layer];
    const int64_t length = static_cast<int64_t>(state.marks.size());
    int64_t start = length;
    if (length > 0 && (OneIn(8) || length > kMaxLength)) start = Below(length);
    if (OneIn(40)) start = length + 1 + Below(10);
    int64_t count = OneIn(4) ? 1 + Below(40) : 1 + Below(5);
    uint64_t step = state.step + 1 + static_cast<uint64_t>(Below(2));
    if (OneIn(15) && state.step > 0) {  // a retry
      step = state.step;
      start = state.start;
      count = state.count;
      if (OneIn(4)) ++count;  // that is none
    } else if (OneIn(40) && state.step > 1) {
      step = state.step - 1;
    }
    return {.by = RefOf(sequence),
            .sequence = sequence.id,
            .layer = LayerIndex(layer),
            .write = true,
            .step = step,
            .start_position = TokenCount(start),
            .num_tokens = TokenCount(count)};
  }

  void ReserveWrite() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr || reservations_.size() > 40) return;
    const LayerAccess access = RandomWrite(*sequence);
    const absl::StatusCode expected = Authorize(access.by, *sequence);
    absl::StatusOr<PageReservation> reservation = kv_->Reserve(access);
    if (Exhausted(reservation.status(), *sequence, ReservedIn(*sequence))) return;
    if (!Expect(expected, reservation.status())) return;
    const bool applied = access.step <= sequence->layers[access.layer.value()].step;
    EXPECT_EQ(reservation->active(), !applied);
    if (!reservation->active()) return;
    if (sequence->reservations++ == 0) sequence->promises_hold = true;
    ++sequence->cache->num_reservations;
    reservations_.push_back({sequence, access, *std::move(reservation)});
  }

  // Mostly in the order of admission, as the scheduler does.
  void PinReserved() {
    if (reservations_.empty()) return;
    size_t index = 0;
    if (OneIn(20)) index = static_cast<size_t>(Below(static_cast<int64_t>(reservations_.size())));
    ModelReservation item = std::move(reservations_[index]);
    reservations_.erase(reservations_.begin() + static_cast<ptrdiff_t>(index));
    const bool promised = item.sequence->promises_hold && index == 0;
    if (index != 0) item.sequence->promises_hold = false;
    Pin(item.sequence, item.access, std::move(item.reservation), promised);
    ForgetReservation(*item.sequence);
  }

  void PinUnreserved() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr) return;
    sequence->promises_hold = false;
    Pin(sequence, RandomWrite(*sequence), PageReservation(), /*promised=*/false);
  }

  void DropReservation() {
    if (reservations_.empty()) return;
    const size_t index = static_cast<size_t>(Below(static_cast<int64_t>(reservations_.size())));
    const SequencePtr sequence = reservations_[index].sequence;
    reservations_.erase(reservations_.begin() + static_cast<ptrdiff_t>(index));
    ForgetReservation(*sequence);
  }

  void ForgetReservation(ModelSequence& sequence) {
    if (!sequence.alive) return;
    --sequence.reservations;
    --sequence.cache->num_reservations;
  }

  void PinRead() {
    const SequencePtr sequence = AnySequence();
    if (sequence == nullptr) return;
    const uint32_t layer = static_cast<uint32_t>(Below(sequence->cache->geometry.num_layers));
    const int64_t length = static_cast<int64_t>(sequence->layers[layer].marks.size());
    const int64_t count = 1 + Below(3);
    LayerAccess access{.by = RefOf(*sequence),
                       .sequence = sequence->id,
                       .layer = LayerIndex(layer),
                       .start_position = TokenCount(std::max<int64_t>(length - count, 0)),
                       .num_tokens = TokenCount(count)};
    if (OneIn(2)) access.kv_length = TokenCount(Below(length + 2));
    Pin(sequence, access, PageReservation(), /*promised=*/false);
  }

  enum class Kind { kRead, kWrite, kReplay };
  absl::StatusCode PredictPin(const ModelSequence& sequence, const LayerAccess& access,
                              Kind* kind) {
    const absl::StatusCode code = Authorize(access.by, sequence);
    if (code != absl::StatusCode::kOk) return code;
    const ModelLayer& layer = sequence.layers[access.layer.value()];
    const int64_t length = static_cast<int64_t>(layer.marks.size());
    const int64_t start = access.start_position.value(), count = access.num_tokens.value();
    if (!access.write) {
      *kind = Kind::kRead;
      const int64_t end = access.kv_length.value_or(TokenCount(start + count)).value();
      return end <= length ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition;
    }
    if (access.step < layer.step) return absl::StatusCode::kAborted;
    if (access.step == layer.step) {
      *kind = Kind::kReplay;
      return start == layer.start && count == layer.count && start + count <= length
                 ? absl::StatusCode::kOk
                 : absl::StatusCode::kFailedPrecondition;
    }
    *kind = Kind::kWrite;
    return start <= length ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition;
  }

  void Pin(const SequencePtr& sequence, const LayerAccess& access, PageReservation reservation,
           bool promised) {
    Kind kind = Kind::kRead;
    const absl::StatusCode expected = PredictPin(*sequence, access, &kind);
    // A failed item gives its promise back, so what counted is what was reserved before.
    const PageCount reserved = ReservedIn(*sequence);
    absl::StatusOr<PageLease> lease = kv_->Pin(access, std::move(reservation));
    if (expected == absl::StatusCode::kOk && kind == Kind::kWrite &&
        Exhausted(lease.status(), *sequence, reserved)) {
      EXPECT_FALSE(promised) << "an admitted item found no pages: " << lease.status();
      return;
    }
    if (!Expect(expected, lease.status())) return;

    ModelLease held;
    held.sequence = sequence;
    held.layer = access.layer.value();
    held.lease = *std::move(lease);
    EXPECT_EQ(held.lease.replayed(), kind == Kind::kReplay);
    if (kind == Kind::kWrite) {
      ApplyWrite(*sequence, access, held);
    } else {
      EXPECT_TRUE(held.lease.copies().empty());
    }
    const PageLease::View& view = held.lease.view();
    const ModelLayer& layer = sequence->layers[held.layer];
    EXPECT_EQ(view.layer_length.value(), static_cast<int64_t>(layer.marks.size()));
    const int64_t kv_len =
        access.kv_length.value_or(access.start_position + access.num_tokens).value();
    ASSERT_EQ(view.kv_len.value(), kv_len);
    const auto offsets = held.lease.page_offsets();
    ASSERT_EQ(offsets.size(), sequence->PagesFor(kv_len));
    held.offsets.assign(offsets.begin(), offsets.end());
    held.marks.assign(layer.marks.begin(), layer.marks.begin() + kv_len);
    for (size_t i = 0; i < offsets.size(); ++i) {
      ASSERT_EQ(offsets[i], sequence->table[i]->offset);
      held.pages.emplace_back(sequence->table[i]);
    }
    ++sequence->pins;
    leases_.push_back(std::move(held));
  }

  void ApplyWrite(ModelSequence& sequence, const LayerAccess& access, ModelLease& held) {
    const PageLease& lease = held.lease;
    const int64_t start = access.start_position.value();
    const int64_t end = start + access.num_tokens.value();
    const size_t first_page = static_cast<size_t>(start / sequence.page_size());
    const size_t end_page = sequence.PagesFor(end);
    const size_t existing = std::min(end_page, sequence.table.size());
    const auto offsets = lease.page_offsets();
    ASSERT_EQ(offsets.size(), end_page);

    ExecuteCopies(lease.copies());
    size_t copies = 0;
    for (size_t i = first_page; i < existing; ++i) {
      const ModelPage& page = *sequence.table[i].page();
      if (offsets[i] == page.offset) {
        EXPECT_EQ(page.tables, 1) << "page " << i << " is shared and was not copied";
        EXPECT_EQ(page.key, "") << "page " << i << " is published and was not copied";
        continue;
      }
      ASSERT_LT(copies, lease.copies().size());
      const PageCopy& copy = lease.copies()[copies++];
      EXPECT_EQ(copy.source, memory_.span().data() + page.offset);
      EXPECT_EQ(copy.destination, memory_.span().data() + offsets[i]);
      EXPECT_TRUE(page.tables > 1 || !page.key.empty() || Lingers(page))
          << "copied a page of its own";
      sequence.lingering.push_back(sequence.table[i].page());
      held.pages.emplace_back(sequence.table[i]);
      sequence.table[i] = TableRef(std::make_shared<ModelPage>(sequence.cache, offsets[i]));
    }
    EXPECT_EQ(copies, lease.copies().size()) << "copied what is not written";
    for (size_t i = existing; i < end_page; ++i) {
      sequence.table.emplace_back(std::make_shared<ModelPage>(sequence.cache, offsets[i]));
    }

    ModelLayer& layer = sequence.layers[held.layer];
    layer.marks.resize(static_cast<size_t>(end));
    layer.step = access.step;
    layer.start = start;
    layer.count = end - start;
    for (int64_t position = start; position < end; ++position) {
      layer.marks[static_cast<size_t>(position)] = ++last_mark_;
      WriteToken(lease.view(), offsets, position, last_mark_);
    }
    for (ModelLease& other : leases_) {  // what older leases may no longer rely on
      if (other.sequence.get() != &sequence || other.layer != held.layer) continue;
      for (size_t i = static_cast<size_t>(start);
           i < std::min(static_cast<size_t>(end), other.marks.size()); ++i) {
        other.marks[i] = 0;
      }
    }
    sequence.DropPagesBeyondLongest();
  }

  void ReleaseLease() {
    if (leases_.empty()) return;
    Release(static_cast<size_t>(Below(static_cast<int64_t>(leases_.size()))));
  }
  void Release(size_t index) {
    ModelLease held = std::move(leases_[index]);
    leases_.erase(leases_.begin() + static_cast<ptrdiff_t>(index));
    const auto offsets = held.lease.page_offsets();
    EXPECT_TRUE(
        std::equal(offsets.begin(), offsets.end(), held.offsets.begin(), held.offsets.end()))
        << "offsets changed under a lease";
    for (size_t i = 0; i < held.marks.size(); ++i) {
      if (held.marks[i] == 0) continue;
      ASSERT_EQ(ReadToken(held.lease.view(), offsets, static_cast<int64_t>(i)), held.marks[i])
          << "position " << i;
    }
    if (--held.sequence->pins == 0) held.sequence->lingering.clear();
  }

  PageCount ReservedIn(const ModelSequence& sequence) const {
    for (const CacheInfo& info : kv_->Stats().caches) {
      if (info.cache == sequence.cache->id) return info.reserved;
    }
    return PageCount(0);
  }

  // Whether pages ran out; then it must be true.
  bool Exhausted(const absl::Status& status, const ModelSequence& sequence, PageCount reserved) {
    if (status.code() != absl::StatusCode::kResourceExhausted) return false;
    Count(status.code());
    const ErrorDetail detail = GetErrorDetail(status).value_or(ErrorDetail());
    EXPECT_TRUE(detail.reason == ErrorReason::kPagesExhausted ||
                (limit_bytes_ > 0 && detail.reason == ErrorReason::kTenantLimit));
    EXPECT_GT(detail.needed_pages, detail.free_pages);
    const KvCacheStats stats = kv_->Stats();
    const auto info =
        std::find_if(stats.caches.begin(), stats.caches.end(),
                     [&](const CacheInfo& info) { return info.cache == sequence.cache->id; });
    const int64_t needed = detail.needed_pages.value();
    if (info->quota > PageCount(0) && needed > (info->quota - info->used - reserved).value()) {
      return true;
    }
    const int64_t missing = needed - (info->free - reserved + info->cached).value();
    const int64_t slabs = (missing + info->layout.pages_per_slab - 1) / info->layout.pages_per_slab;
    uint64_t free_bytes = stats.pool_free_bytes.value();
    if (limit_bytes_ > 0) {
      free_bytes = std::min(free_bytes, limit_bytes_ - stats.tenants[0].kv_bytes.value());
    }
    const int64_t pool_free = static_cast<int64_t>(free_bytes / kSuperblockBytes.value());
    EXPECT_TRUE(missing > 0 &&
                (stats.pools[0].largest_free_run_superblocks < info->layout.superblocks_per_slab ||
                 slabs * info->layout.superblocks_per_slab > pool_free))
        << "there was room: " << status;
    return true;
  }
};

}  // namespace attnd
