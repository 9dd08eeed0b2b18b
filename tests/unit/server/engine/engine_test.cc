// SPDX-License-Identifier: Apache-2.0
//
// What the engine hands to a backend, seen by one that records it.
#include "server/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/attention/kv_address.h"
#include "kv_cache/kv_cache.h"
#include "tests/fakes/fake_backend.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/poisoned_memory.h"

namespace attnd {
namespace {

using ::testing::ElementsAre;
using Kind = FakeStreamOp::Kind;

class EngineTest : public testing::Test {
 protected:
  static constexpr int32_t kLayers = 3, kQueryHeads = 4, kKvHeads = 2, kDimK = 8, kDimV = 4;
  static constexpr int32_t kPageSize = 4;

  EngineTest()
      : pool_(Bytes(8u << 20)),
        cache_(pool_.bytes(), {.boot = 7}, clock_),
        engine_(platform_.backend(), platform_.device()) {
    EXPECT_TRUE(engine_.Init().ok());
    session_ = cache_.OpenSession(Duration{}, "")->ref;
    const CacheId id = cache_
                           .OpenCache("model",
                                      {.num_layers = kLayers,
                                       .num_query_heads = kQueryHeads,
                                       .num_kv_heads = kKvHeads,
                                       .head_dim_k = kDimK,
                                       .head_dim_v = kDimV,
                                       .kv_dtype = DType::kF32,
                                       .page_size_tokens = kPageSize},
                                      PageCount(0))
                           ->info.cache;
    sequence_ = *cache_.CreateSequence(session_, id, "");
  }

  WorkItem Item(int64_t tokens) const {
    WorkItem item;
    item.key.head_dim_k = kDimK;
    item.key.head_dim_v = kDimV;
    item.num_query_heads = kQueryHeads;
    item.num_kv_heads = kKvHeads;
    item.query_len = tokens;
    item.q = item.k = item.v = data_;
    return item;
  }
  WorkItem Write(SequenceId sequence, uint32_t layer, uint64_t step, int64_t start,
                 int64_t tokens) const {
    WorkItem item = Item(tokens);
    item.access = LayerAccess{.by = session_,
                              .sequence = sequence,
                              .layer = LayerIndex(layer),
                              .write = true,
                              .step = step,
                              .start_position = TokenCount(start),
                              .num_tokens = TokenCount(tokens),
                              .kv_length = {}};
    return item;
  }
  PageLease Pin(const WorkItem& item) {
    PageReservation reservation;
    if (item.access->write) reservation = *cache_.Reserve(*item.access);
    return *cache_.Pin(*item.access, std::move(reservation));
  }
  absl::Status Launch(const std::vector<LaunchItem>& batch) {
    auto event = engine_.Launch(batch);
    return event.ok() ? (*event)->Wait() : event.status();
  }
  std::vector<Kind> Kinds() const {
    std::vector<Kind> kinds;
    for (const FakeStreamOp& op : platform_.ops()) kinds.push_back(op.kind);
    return kinds;
  }

  FakeClock clock_;
  FakePlatform platform_;
  PoisonedMemory pool_;
  KvCache cache_;
  Engine engine_;
  SessionRef session_;
  SequenceId sequence_;
  alignas(64) std::byte data_[1 << 14] = {};
};

TEST_F(EngineTest, DescribesPagesAsTheCacheLaysThemOut) {
  const WorkItem work = Write(sequence_, 2, 1, 0, 6);  // two pages
  const PageLease lease = Pin(work);
  ASSERT_TRUE(Launch({{&work, &lease}}).ok());
  const AttentionItem item = platform_.ops()[0].items[0];
  EXPECT_EQ(item.query_len, 6);
  EXPECT_EQ(item.start_position, 0);
  EXPECT_EQ(item.kv_len, 6);
  EXPECT_EQ(item.q.token_stride_elems, kQueryHeads * kDimK);
  EXPECT_EQ(item.q.head_stride_elems, kDimK);
  EXPECT_EQ(item.new_k.token_stride_elems, kKvHeads * kDimK);
  EXPECT_EQ(item.new_v.token_stride_elems, kKvHeads * kDimV);
  EXPECT_EQ(item.new_v.head_stride_elems, kDimV);

  // Token 5 is the second of the second page; a chunk is [K, V][kv_head][token][dim].
  const SlabLayout layout = cache_.Stats().caches[0].layout;
  const std::byte* page =
      pool_.bytes().data() + lease.page_offsets()[1] + 2 * layout.layer_stride_bytes;
  EXPECT_EQ(KeyAddress(item.kv, DType::kF32, 1, 5), page + (1 * kPageSize + 1) * kDimK * 4);
  EXPECT_EQ(ValueAddress(item.kv, DType::kF32, 1, 5),
            page + layout.v_offset_bytes + (1 * kPageSize + 1) * kDimV * 4);
}

TEST_F(EngineTest, ARepeatedStepAttendsAndWritesNothing) {
  const WorkItem work = Write(sequence_, 0, 1, 0, 4);
  { const PageLease first = Pin(work); }
  const PageLease again = Pin(work);
  WorkItem write_only = Write(sequence_, 1, 1, 0, 4);
  { const PageLease first = Pin(write_only); }
  const PageLease nothing = Pin(write_only);
  write_only.q = nullptr;
  ASSERT_TRUE(Launch({{&work, &again}, {&write_only, &nothing}}).ok());
  // The second has nothing left to do.
  ASSERT_THAT(Kinds(), ElementsAre(Kind::kLaunch, Kind::kRecord));
  ASSERT_EQ(platform_.ops()[0].items.size(), 1u);
  const AttentionItem item = platform_.ops()[0].items[0];
  EXPECT_NE(item.q.data, nullptr);
  EXPECT_EQ(item.new_k.data, nullptr);
  EXPECT_EQ(item.new_v.data, nullptr);
  EXPECT_EQ(item.kv_len, 4);
}

TEST_F(EngineTest, AReadHasNoNewKeys) {
  const WorkItem written = Write(sequence_, 0, 1, 0, 8);
  { const PageLease lease = Pin(written); }
  WorkItem read = Write(sequence_, 0, 0, 7, 1);
  read.k = read.v = nullptr;
  read.access->write = false;
  read.access->kv_length = TokenCount(5);
  const PageLease lease = Pin(read);
  ASSERT_TRUE(Launch({{&read, &lease}}).ok());
  const AttentionItem item = platform_.ops()[0].items[0];
  EXPECT_EQ(item.start_position, 7);
  EXPECT_EQ(item.kv_len, 5);
  EXPECT_EQ(item.new_k.data, nullptr);
}

TEST_F(EngineTest, DenseTensorsAreOnePage) {
  WorkItem work = Item(3);
  work.dense_kv_len = 7;
  work.dense_start_position = 4;
  ASSERT_TRUE(Launch({{&work, nullptr}}).ok());
  const AttentionItem item = platform_.ops()[0].items[0];
  EXPECT_EQ(item.start_position, 4);
  EXPECT_EQ(item.kv_len, 7);
  EXPECT_EQ(item.new_k.data, nullptr);
  EXPECT_EQ(KeyAddress(item.kv, DType::kF32, 1, 6), data_ + (6 * kKvHeads + 1) * kDimK * 4);
  EXPECT_EQ(ValueAddress(item.kv, DType::kF32, 1, 6), data_ + (6 * kKvHeads + 1) * kDimV * 4);
}

TEST_F(EngineTest, GroupsByKernelAndHeadCounts) {
  WorkItem a = Item(1), causal = Item(1), more_heads = Item(1);
  causal.key.features.Add(Feature::kCausal);
  more_heads.num_query_heads = 2 * kQueryHeads;
  ASSERT_TRUE(Launch({{&a, nullptr},
                      {&causal, nullptr},
                      {&a, nullptr},
                      {&more_heads, nullptr},
                      {&causal, nullptr}})
                  .ok());
  ASSERT_THAT(Kinds(), ElementsAre(Kind::kLaunch, Kind::kLaunch, Kind::kLaunch, Kind::kRecord));
  const std::vector<FakeStreamOp> ops = platform_.ops();
  EXPECT_EQ(ops[0].items.size(), 2u);
  EXPECT_TRUE(ops[1].key.features.Has(Feature::kCausal));
  EXPECT_EQ(ops[1].items.size(), 2u);
  EXPECT_EQ(ops[2].num_query_heads, 2 * kQueryHeads);

  // The next batch carries nothing over.
  platform_.ClearOps();
  ASSERT_TRUE(Launch({{&causal, nullptr}}).ok());
  EXPECT_THAT(Kinds(), ElementsAre(Kind::kLaunch, Kind::kRecord));
  EXPECT_EQ(platform_.ops()[0].items.size(), 1u);
}

TEST_F(EngineTest, CopiesSharedPagesBeforeAnyKernelWrites) {
  const WorkItem prefix = Write(sequence_, 0, 1, 0, 2);
  std::byte* shared_key = nullptr;
  {
    const PageLease lease = Pin(prefix);
    ASSERT_TRUE(Launch({{&prefix, &lease}}).ok());
    shared_key = KeyAddress(platform_.ops()[0].items[0].kv, DType::kF32, 0, 0);
    std::memset(shared_key, 0x11, 4);
  }
  const SequenceId fork = *cache_.Fork(session_, sequence_, std::nullopt);
  platform_.ClearOps();
  const WorkItem of_parent = Write(sequence_, 0, 2, 2, 1), of_fork = Write(fork, 0, 2, 2, 1);
  const PageLease parent = Pin(of_parent), child = Pin(of_fork);
  ASSERT_TRUE(Launch({{&of_parent, &parent}, {&of_fork, &child}}).ok());
  ASSERT_THAT(Kinds(), ElementsAre(Kind::kCopyPages, Kind::kLaunch, Kind::kRecord));
  const FakeStreamOp launch = platform_.ops()[1];
  std::byte* key_of_parent = KeyAddress(launch.items[0].kv, DType::kF32, 0, 0);
  std::byte* key_of_fork = KeyAddress(launch.items[1].kv, DType::kF32, 0, 0);
  EXPECT_NE(key_of_parent, key_of_fork);
  EXPECT_EQ(std::memcmp(key_of_parent, key_of_fork, 4), 0);
  EXPECT_EQ(key_of_fork[0], std::byte{0x11});
}

TEST_F(EngineTest, APlanThatFailsQueuesNothing) {
  platform_.FailPlan(absl::UnimplementedError("no such tile"));
  const WorkItem work = Item(1);
  EXPECT_EQ(Launch({{&work, nullptr}}).code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(platform_.ops().empty());
}

TEST_F(EngineTest, PassesTheDevicesErrorsOn) {
  const WorkItem work = Item(1);
  platform_.FailLaunch(absl::InternalError("lost"));
  EXPECT_EQ(Launch({{&work, nullptr}}).message(), "lost");
}

}  // namespace
}  // namespace attnd
