// SPDX-License-Identifier: Apache-2.0
//
// Tenants: what one cannot see, name or use up of another's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr TenantIndex kChat(1), kCode(2);

// The pool is of `slabs` slabs of one page of 256 tokens.
class TenantsTest : public CacheFixture {
 protected:
  void OpenPool(int64_t slabs) {
    memory_ = std::make_unique<PoolMemory>(slabs);
    kv_ = std::make_unique<KvCache>(
        memory_->span(), KvCache::Options{.boot = kBoot, .poison_free_pages = true}, clock_);
  }
  // A cache and a session of the tenant's, which the fixture's helpers use from then on.
  void Be(TenantIndex tenant, std::string_view cache = "main") {
    cache_ = kv_->OpenCache(cache, geometry_, PageCount(0), tenant).value().info.cache;
    session_ = kv_->OpenSession(Duration::zero(), "test", "", tenant).value();
    by_ = session_.ref;
  }
  TenantInfo TenantOf(TenantIndex tenant) { return kv_->Stats().tenants.at(tenant.value()); }
  void TearDown() override {
    CacheFixture::TearDown();
    kv_.reset();
  }

  static constexpr int64_t kPageTokens = 256;
  const CacheGeometry geometry_ = OnePageSlabGeometry();
};

void ExpectTenantLimit(const absl::Status& status, std::string_view what) {
  ATTND_EXPECT_CODE(status, kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(what)));
  const auto detail = GetErrorDetail(status);
  ASSERT_TRUE(detail.has_value()) << status;
  EXPECT_EQ(detail->reason, ErrorReason::kTenantLimit);
}

TEST_F(TenantsTest, ANameIsTheTenantsOwn) {
  OpenPool(8);
  Be(kChat);
  const CacheId of_chat = cache_;
  CacheGeometry other = geometry_;
  other.num_layers = 2;
  const auto of_code = kv_->OpenCache("main", other, PageCount(0), kCode);
  ASSERT_TRUE(of_code.ok()) << of_code.status();
  EXPECT_TRUE(of_code->created);
  EXPECT_NE(of_code->info.cache, of_chat);
  ATTND_EXPECT_CODE(kv_->CloseCache(of_chat, kCode), kNotFound);
  EXPECT_TRUE(kv_->CloseCache(of_code->info.cache, kCode).ok());
  EXPECT_FALSE(kv_->OpenCache("main", geometry_, PageCount(0), kChat)->created);
}

// What is another's answers exactly as what never was.
TEST_F(TenantsTest, AnothersObjectsAreNotFound) {
  OpenPool(8);
  Be(kChat);
  const SequenceId sequence = Create("secret");
  ASSERT_TRUE(Write(sequence, 0, 10).ok());
  const SessionRef owner = by_;
  const SessionGrant grant = session_;
  const CacheId cache = cache_;
  Be(kCode);

  // With its own session.
  ATTND_EXPECT_CODE(kv_->Describe(by_, sequence).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->Free(by_, sequence), kNotFound);
  ATTND_EXPECT_CODE(kv_->Fork(by_, sequence, std::nullopt).status(), kNotFound);
  ATTND_EXPECT_CODE(Take(ReadAccess(sequence, 0, 1)).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->CreateSequence(by_, cache, "").status(), kNotFound);
  const Prefix prefix{.keys = {}, .num_tokens = TokenCount(1)};
  ATTND_EXPECT_CODE(kv_->MatchPrefix(by_, cache, prefix).status(), kNotFound);

  // With the owner's session, whose id it guessed.
  const SessionRef guessed{.session = owner.session, .epoch = owner.epoch, .tenant = kCode};
  ATTND_EXPECT_CODE(kv_->RenewLease(guessed).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->CloseSession(guessed), kNotFound);
  ATTND_EXPECT_CODE(kv_->ListSequences(guessed).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->ResumedSequences(guessed).status(), kNotFound);
  ATTND_EXPECT_CODE(kv_->SetClientState(guessed, sequence, 1, "mine").status(), kNotFound);
  // An epoch that was never given out reveals nothing either.
  const SessionRef later{.session = owner.session, .epoch = 9, .tenant = kCode};
  ATTND_EXPECT_CODE(kv_->RenewLease(later).status(), kNotFound);

  // With the owner's token, which it stole.
  const absl::Status stolen = kv_->ResumeSession(grant.token, Duration::zero(), kCode).status();
  EXPECT_EQ(stolen, kv_->ResumeSession(std::string(16, 'x'), Duration::zero(), kCode).status());
  EXPECT_EQ(kv_->Describe(owner, sequence)->client_state, "secret");
}

TEST_F(TenantsTest, CountsAreLimited) {
  OpenPool(8);
  kv_->SetTenant(kChat, "chat", {.caches = 1, .sessions = 2, .sequences = 2});
  Be(kChat);
  ExpectTenantLimit(kv_->OpenCache("more", geometry_, PageCount(0), kChat).status(),
                    "tenant 'chat' has 1 caches of at most 1");
  ASSERT_TRUE(kv_->OpenSession(Duration::zero(), "second", "", kChat).ok());
  ExpectTenantLimit(kv_->OpenSession(Duration::zero(), "third", "", kChat).status(),
                    "tenant 'chat' has 2 sessions of at most 2");
  const SequenceId first = Create();
  ASSERT_TRUE(kv_->Fork(by_, first, std::nullopt).ok());
  ExpectTenantLimit(kv_->CreateSequence(by_, cache_, "").status(), "2 sequences of at most 2");
  ExpectTenantLimit(kv_->Fork(by_, first, std::nullopt).status(), "2 sequences of at most 2");
  EXPECT_EQ(TenantOf(kChat).refused_sequences, 2u);
  // The others are not concerned, and what is freed can be had again.
  EXPECT_TRUE(kv_->OpenSession(Duration::zero(), "", "", kCode).ok());
  ASSERT_TRUE(kv_->Free(by_, first).ok());
  EXPECT_TRUE(kv_->CreateSequence(by_, cache_, "").ok());
  ASSERT_TRUE(kv_->CloseSession(by_).ok());
  EXPECT_TRUE(kv_->OpenSession(Duration::zero(), "again", "", kChat).ok());
}

TEST_F(TenantsTest, MemoryIsLimitedToTheTenantsShare) {
  OpenPool(6);
  kv_->SetTenant(kChat, "chat", {.kv_bytes = Bytes(2 * kSuperblockBytes.value())});
  Be(kChat);
  const SequenceId sequence = Create();
  ASSERT_TRUE(Write(sequence, 0, 2 * kPageTokens).ok());
  const absl::Status refused = Write(sequence, 2 * kPageTokens, 1);
  ExpectTenantLimit(refused, "within the 4 MiB of tenant 'chat'");
  EXPECT_EQ(GetErrorDetail(refused)->needed_pages, PageCount(1));
  EXPECT_EQ(TenantOf(kChat).refused_kv_bytes, 1u);
  EXPECT_EQ(TenantOf(kChat).kv_bytes, Bytes(2 * kSuperblockBytes.value()));
  // What is left is the others'.
  Be(kCode);
  EXPECT_TRUE(Write(Create(), 0, 4 * kPageTokens).ok());
}

TEST_F(TenantsTest, ASlabLargerThanTheShareIsRefusedWhenTheCacheIsOpened) {
  OpenPool(6);
  kv_->SetTenant(kChat, "chat", {.kv_bytes = Bytes(kSuperblockBytes.value() - 1)});
  ExpectTenantLimit(kv_->OpenCache("main", geometry_, PageCount(0), kChat).status(),
                    "takes 1 superblocks of 2 MiB");
}

// Its own caches make room for each other within the limit, though the pool has plenty.
TEST_F(TenantsTest, WithinTheLimitATenantsOwnCachesGiveWay) {
  OpenPool(6);
  kv_->SetTenant(kChat, "chat", {.kv_bytes = Bytes(2 * kSuperblockBytes.value())});
  Be(kChat, "first");
  const CacheId first = cache_;
  const SequenceId published = Create();
  ASSERT_TRUE(Write(published, 0, kPageTokens).ok());
  const std::vector<std::string> key = {std::string(16, 'k')};
  const std::vector<std::string_view> keys(key.begin(), key.end());
  ASSERT_TRUE(kv_->PublishPrefix(by_, published, 0, keys).ok());
  ASSERT_TRUE(kv_->Free(by_, published).ok());
  const SequenceId freed = Create();
  ASSERT_TRUE(Write(freed, 0, kPageTokens).ok());
  ASSERT_TRUE(kv_->Free(by_, freed).ok());
  ASSERT_EQ(Info(first).num_slabs, 2);
  ASSERT_EQ(Info(first).cached, PageCount(1));

  // First what stands empty, then the idle prefix.
  Be(kChat, "second");
  const SequenceId sequence = Create();
  ASSERT_TRUE(Write(sequence, 0, kPageTokens).ok());
  EXPECT_EQ(Info(first).cached, PageCount(1));
  ASSERT_TRUE(Write(sequence, kPageTokens, kPageTokens).ok());
  EXPECT_EQ(Info(first).cached, PageCount(0));
  EXPECT_EQ(Info(first).num_slabs, 0);
  ExpectTenantLimit(Write(sequence, 2 * kPageTokens, 1), "tenant 'chat'");
}

// A tenant at its limit takes nothing from others, whatever they could give.
TEST_F(TenantsTest, AtTheLimitOthersKeepTheirPrefixes) {
  OpenPool(3);
  kv_->SetTenant(kChat, "chat", {.kv_bytes = Bytes(2 * kSuperblockBytes.value())});
  Be(kCode);
  const CacheId of_code = cache_;
  const SequenceId published = Create();
  ASSERT_TRUE(Write(published, 0, kPageTokens).ok());
  const std::vector<std::string> key = {std::string(16, 'k')};
  const std::vector<std::string_view> keys(key.begin(), key.end());
  ASSERT_TRUE(kv_->PublishPrefix(by_, published, 0, keys).ok());
  ASSERT_TRUE(kv_->Free(by_, published).ok());
  Be(kChat);
  const SequenceId sequence = Create();
  ASSERT_TRUE(Write(sequence, 0, 2 * kPageTokens).ok());
  ExpectTenantLimit(Write(sequence, 2 * kPageTokens, 1), "tenant 'chat'");
  EXPECT_EQ(Info(of_code).cached, PageCount(1));
  // Two tenants with the same keys do not share either.
  const Prefix prefix{.keys = keys, .num_tokens = TokenCount(kPageTokens + 1)};
  EXPECT_EQ(*kv_->MatchPrefix(by_, cache_, prefix), TokenCount(0));
}

TEST_F(TenantsTest, ALowerLimitStopsGrowthAndTakesNothingAway) {
  OpenPool(4);
  Be(kChat);
  const SequenceId sequence = Create();
  ASSERT_TRUE(Write(sequence, 0, 3 * kPageTokens).ok());
  kv_->SetTenant(kChat, "chat", {.kv_bytes = kSuperblockBytes, .sequences = 1});
  EXPECT_TRUE(Write(sequence, 2 * kPageTokens, kPageTokens).ok());
  ExpectTenantLimit(Write(sequence, 3 * kPageTokens, 1), "the 2 MiB of tenant 'chat'");
  kv_->SetTenant(kChat, "chat", {});
  EXPECT_TRUE(Write(sequence, 3 * kPageTokens, 1).ok());
}

}  // namespace
}  // namespace attnd
