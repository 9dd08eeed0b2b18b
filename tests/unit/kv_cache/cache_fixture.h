// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the KV cache share: memory to hand out, a clock to set, and short ways to
// write, read and fail. Not thread-safe.
//
//   class ForkTest : public CacheFixture {};
//   TEST_F(ForkTest, ...) { Open(SmallGeometry()); SequenceId a = Create(); Write(a, 0, 10); ... }
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/clock.h"
#include "kv_cache/error_detail.h"
#include "kv_cache/kv_cache.h"

namespace attnd {

// Host memory in superblocks. Untouched pages of it cost nothing.
class PoolMemory {
 public:
  explicit PoolMemory(int64_t superblocks)
      : size_(static_cast<size_t>(superblocks) * kSuperblockBytes.value()),
        data_(static_cast<std::byte*>(
            std::aligned_alloc(static_cast<size_t>(kSuperblockBytes.value()), size_))) {}
  ~PoolMemory() { std::free(data_); }
  PoolMemory(const PoolMemory&) = delete;
  PoolMemory& operator=(const PoolMemory&) = delete;

  std::span<std::byte> span() { return {data_, size_}; }

 private:
  size_t size_;
  std::byte* data_;
};

class FakeClock final : public Clock {
 public:
  MonotonicTime Now() const override { return now_; }
  void Advance(Duration by) { now_ += by; }

 private:
  MonotonicTime now_ = MonotonicTime(std::chrono::hours(1));
};

// 3 layers and 4 tokens a page. A page is 96 KiB, a slab one superblock of 21 pages.
inline CacheGeometry SmallGeometry() {
  return {.num_layers = 3,
          .num_query_heads = 8,
          .num_kv_heads = 4,
          .head_dim_k = 256,
          .head_dim_v = 256,
          .kv_dtype = DType::kF32,
          .page_size_tokens = 4};
}

// Slabs of one page of 2 MiB, for tests that move slabs.
inline CacheGeometry OnePageSlabGeometry() {
  CacheGeometry geometry = SmallGeometry();
  geometry.num_layers = 1;
  geometry.page_size_tokens = 256;
  return geometry;
}

inline testing::AssertionResult HasCode(const char* expression, const char*,
                                        const absl::Status& status, absl::StatusCode code) {
  if (status.code() == code) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << expression << " is " << status << ", not " << absl::StatusCodeToString(code);
}
#define ATTND_EXPECT_CODE(status, code) EXPECT_PRED_FORMAT2(HasCode, status, absl::StatusCode::code)

class CacheFixture : public testing::Test {
 protected:
  static constexpr uint64_t kBoot = 0x1234567800000001;

  void Open(const CacheGeometry& geometry, int64_t superblocks = 4, int64_t quota = 0,
            KvCache::Options options = {}) {
    options.boot = kBoot;
    options.poison_free_pages = true;
    memory_ = std::make_unique<PoolMemory>(superblocks);
    kv_ = std::make_unique<KvCache>(memory_->span(), options, clock_);
    cache_ = OpenCache("main", geometry, quota);
    session_ = kv_->OpenSession(Duration::zero(), "test").value();
    by_ = session_.ref;
  }

  CacheId OpenCache(std::string_view name, const CacheGeometry& geometry, int64_t quota = 0) {
    return kv_->OpenCache(name, geometry, PageCount(quota)).value().info.cache;
  }

  SequenceId Create(std::string state = "") {
    return kv_->CreateSequence(by_, cache_, std::move(state)).value();
  }

  // The next step unless one is given.
  LayerAccess WriteAccess(SequenceId sequence, int64_t start, int64_t count, uint32_t layer = 0,
                          uint64_t step = 0) {
    return {.by = by_,
            .sequence = sequence,
            .layer = LayerIndex(layer),
            .write = true,
            .step = step != 0 ? step : ++last_step_,
            .start_position = TokenCount(start),
            .num_tokens = TokenCount(count)};
  }
  LayerAccess ReadAccess(SequenceId sequence, int64_t start, int64_t count, uint32_t layer = 0) {
    return {.by = by_,
            .sequence = sequence,
            .layer = LayerIndex(layer),
            .start_position = TokenCount(start),
            .num_tokens = TokenCount(count)};
  }

  // Reserve and Pin.
  absl::StatusOr<PageLease> Take(const LayerAccess& access) {
    absl::StatusOr<PageReservation> reservation = kv_->Reserve(access);
    if (!reservation.ok()) return reservation.status();
    return kv_->Pin(access, *std::move(reservation));
  }
  // Writes in every layer and lets go.
  absl::Status Write(SequenceId sequence, int64_t start, int64_t count) {
    const uint64_t step = ++last_step_;
    const int32_t layers = kv_->PlaceOf(by_, sequence).value().geometry.num_layers;
    for (uint32_t layer = 0; layer < static_cast<uint32_t>(layers); ++layer) {
      absl::StatusOr<PageLease> lease = Take(WriteAccess(sequence, start, count, layer, step));
      if (!lease.ok()) return lease.status();
    }
    return absl::OkStatus();
  }

  SequenceInfo Describe(SequenceId sequence) { return kv_->Describe(by_, sequence).value(); }
  CacheInfo Info(CacheId cache) {
    for (CacheInfo& info : kv_->Stats().caches) {
      if (info.cache == cache) return info;
    }
    ADD_FAILURE() << "no cache " << cache;
    return {};
  }
  CacheInfo Info() { return Info(cache_); }
  int64_t Used() { return Info().used.value(); }
  int64_t Reserved() { return Info().reserved.value(); }

  void TearDown() override {
    if (kv_ == nullptr) return;
    const auto report = kv_->CheckIntegrity();
    EXPECT_TRUE(report.ok()) << report.status();
  }

  FakeClock clock_;
  std::unique_ptr<PoolMemory> memory_;
  std::unique_ptr<KvCache> kv_;
  CacheId cache_;
  SessionGrant session_;
  SessionRef by_;
  uint64_t last_step_ = 0;
};

}  // namespace attnd
