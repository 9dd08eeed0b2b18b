// SPDX-License-Identifier: Apache-2.0
#include "server/security/tenant_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fakes/test_certificates.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

constexpr char kChat[] = "token-of-chat-00", kCode[] = "token-of-code-00";
constexpr char kWatch[] = "token-of-watch-0", kRoot[] = "token-of-root-00";

class TenantRegistryTest : public testing::Test {
 protected:
  TenantRegistryTest() : path_(testing::TempDir() + "/tenants.yaml"), tenants_(path_) {
    Write(absl::StrCat("tenants:\n- {name: chat, tokens: [", kChat, "]}\n- {name: code, tokens: [",
                       kCode, "]}\n- {name: watch, role: monitor, tokens: [", kWatch,
                       "]}\n- {name: root, role: admin, tokens: [", kRoot, "]}\n"));
  }
  void Write(const std::string& text) { WritePem(path_, text); }
  Caller Authenticate(const std::string& token) {
    const auto caller = tenants_.Authenticate("Bearer " + token);
    EXPECT_TRUE(caller.ok()) << caller.status();
    return caller.value_or(Caller{});
  }

  const std::string path_;
  TenantRegistry tenants_;
};

TEST_F(TenantRegistryTest, WithoutAFileEverybodyMayDoEverything) {
  const TenantRegistry open("");
  EXPECT_FALSE(open.enabled());
  for (const auto& header :
       {std::optional<absl::string_view>(), {"Bearer nonsense"}, {"Basic x"}}) {
    const auto caller = open.Authenticate(header);
    ASSERT_TRUE(caller.ok());
    EXPECT_EQ(caller->tenant, TenantIndex(0));
    EXPECT_EQ(*caller->name, "");
    EXPECT_TRUE(caller->sees_all());
    for (const Right right : {Right::kAttend, Right::kObserve, Right::kOperate}) {
      EXPECT_TRUE(Require(*caller, right).ok());
    }
  }
}

TEST_F(TenantRegistryTest, ATokenNamesItsTenant) {
  ASSERT_TRUE(tenants_.Load().ok());
  const Caller chat = Authenticate(kChat), code = Authenticate(kCode);
  EXPECT_EQ(*chat.name, "chat");
  EXPECT_EQ(*code.name, "code");
  EXPECT_NE(chat.tenant, code.tenant);
  EXPECT_NE(chat.tenant, TenantIndex(0));
  EXPECT_EQ(tenants_.Authenticate(absl::StrCat("bearer ", kChat))->tenant, chat.tenant);
}

TEST_F(TenantRegistryTest, WhatIsNoGoodTokenIsUnauthenticated) {
  ASSERT_TRUE(tenants_.Load().ok());
  const auto refuses = [&](std::optional<absl::string_view> header, const char* message) {
    const absl::Status status = tenants_.Authenticate(header).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  refuses(std::nullopt, "has no token");
  refuses("", "malformed");
  refuses("Bearer", "malformed");
  refuses(kChat, "malformed");
  refuses("Basic dXNlcjpwYXNz", "malformed");
  refuses("Bearer ", "not one of this daemon's");
  refuses("Bearer token-of-nobody-", "not one of this daemon's");
  refuses(absl::StrCat("Bearer ", kChat, " "), "not one of this daemon's");
  refuses(absl::StrCat("Bearer ", std::string(kChat).substr(0, 15)), "not one of this daemon's");
}

TEST_F(TenantRegistryTest, RolesHaveRights) {
  ASSERT_TRUE(tenants_.Load().ok());
  const auto may = [&](const char* token, Right right) {
    const absl::Status status = Require(Authenticate(token), right);
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    }
    return status.ok();
  };
  EXPECT_TRUE(may(kChat, Right::kAttend) && may(kChat, Right::kObserve));
  EXPECT_FALSE(may(kChat, Right::kOperate));
  EXPECT_TRUE(may(kWatch, Right::kObserve));
  EXPECT_FALSE(may(kWatch, Right::kAttend) || may(kWatch, Right::kOperate));
  EXPECT_TRUE(may(kRoot, Right::kObserve) && may(kRoot, Right::kOperate));
  EXPECT_FALSE(may(kRoot, Right::kAttend));
  EXPECT_FALSE(Authenticate(kChat).sees_all());
  EXPECT_TRUE(Authenticate(kWatch).sees_all());
}

TEST_F(TenantRegistryTest, AChangedFileIsReadAgainAndABadOneIsNot) {
  ASSERT_TRUE(tenants_.Load().ok());
  EXPECT_FALSE(tenants_.Changed());
  Caller chat = Authenticate(kChat), code = Authenticate(kCode);

  Write("tenants: nonsense");
  EXPECT_TRUE(tenants_.Changed());
  const absl::Status bad = tenants_.Load();
  EXPECT_THAT(std::string(bad.message()), HasSubstr("--tenants_file "));
  EXPECT_FALSE(tenants_.Changed()) << "said once";
  EXPECT_TRUE(tenants_.Revalidate(chat).ok());
  EXPECT_EQ(Authenticate(kChat).tenant, chat.tenant);

  // One is gone, the other has a new token beside the old, a third takes no one's place.
  Write(
      absl::StrCat("tenants:\n- {name: new, tokens: [token-of-new-0000]}\n- {name: code, tokens: [",
                   kCode, ", token-of-code-01]}\n"));
  ASSERT_TRUE(tenants_.Changed());
  ASSERT_TRUE(tenants_.Load().ok());
  EXPECT_EQ(tenants_.Revalidate(chat).code(), absl::StatusCode::kUnauthenticated);
  EXPECT_FALSE(tenants_.Authenticate(absl::StrCat("Bearer ", kChat)).ok());
  EXPECT_TRUE(tenants_.Revalidate(code).ok());
  EXPECT_EQ(Authenticate("token-of-code-01").tenant, code.tenant);
  const TenantIndex added = Authenticate("token-of-new-0000").tenant;
  EXPECT_NE(added, chat.tenant);
  EXPECT_NE(added, code.tenant);
}

TEST_F(TenantRegistryTest, AFileThatIsNotThereIsAnError) {
  TenantRegistry missing("/nowhere/tenants.yaml");
  EXPECT_THAT(std::string(missing.Load().message()),
              HasSubstr("--tenants_file \"/nowhere/tenants.yaml\": No such file or directory"));
  EXPECT_FALSE(missing.Authenticate(std::nullopt).ok());
}

// What is left out is an equal share, and never nothing.
TEST(ShareTest, TogetherTheyHoldNoMoreThanThereIs) {
  const TenantShare whole{.kv_bytes = Bytes(10ull << 20),
                          .staging_bytes = Bytes(100),
                          .caches = 2,
                          .sessions = 10,
                          .sequences = 100,
                          .queued_requests = 7,
                          .queued_items = 8,
                          .queued_tokens = 9};
  const TenantShare share = ShareOf(TenantSpec{}, whole, 3);
  EXPECT_EQ(share, (TenantShare{.kv_bytes = Bytes(2ull << 20),
                                .staging_bytes = Bytes(33),
                                .caches = 1,
                                .sessions = 3,
                                .sequences = 33,
                                .queued_requests = 2,
                                .queued_items = 2,
                                .queued_tokens = 3}));
  const TenantSpec own{.share = {.kv_bytes = Bytes(9ull << 20), .sessions = 9}};
  EXPECT_EQ(ShareOf(own, whole, 3).kv_bytes, Bytes(9ull << 20));
  EXPECT_EQ(ShareOf(own, whole, 3).sessions, 9);
  EXPECT_EQ(ShareOf(TenantSpec{}, whole, 50).sessions, 1);
  EXPECT_EQ(ShareOf(TenantSpec{}, whole, 50).kv_bytes, Bytes(2ull << 20));
}

}  // namespace
}  // namespace attnd
