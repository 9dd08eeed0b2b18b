// SPDX-License-Identifier: Apache-2.0
#include "server/security/tenants_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kToken[] = "0123456789abcdef";
constexpr char kOther[] = "fedcba9876543210";

std::string HexOf(const std::string& token) {
  const Sha256 hash = HashSecret(token);
  return absl::BytesToHexString(std::string(hash.begin(), hash.end()));
}

TEST(TenantsFileTest, ReadsEveryField) {
  const auto tenants = ParseTenants(absl::StrCat(R"(
tenants:
  - name: chat
    tokens: [)",
                                                 kToken, R"(]
    token_sha256: [)",
                                                 HexOf(kOther), R"(]
    max_kv_bytes: 8GiB
    max_staging_bytes: 512MiB
    max_caches: 1
    max_sessions: 2
    max_sequences: 3
    max_queued_requests: 4
    max_queued_items: 5
    max_queued_tokens: 6
  - {name: watch, role: monitor, tokens: [aaaaaaaaaaaaaaaa]}
  - {name: root.of-all_1, role: admin, tokens: [bbbbbbbbbbbbbbbb]}
)"),
                                    "t.yaml");
  ASSERT_TRUE(tenants.ok()) << tenants.status();
  ASSERT_EQ(tenants->size(), 3u);
  const TenantSpec& chat = tenants->front();
  EXPECT_EQ(chat.name, "chat");
  EXPECT_EQ(chat.role, Role::kTenant);
  EXPECT_THAT(chat.tokens, testing::ElementsAre(HashSecret(kToken), HashSecret(kOther)));
  EXPECT_EQ(chat.share, (TenantShare{.kv_bytes = Bytes(8ull << 30),
                                     .staging_bytes = Bytes(512ull << 20),
                                     .caches = 1,
                                     .sessions = 2,
                                     .sequences = 3,
                                     .queued_requests = 4,
                                     .queued_items = 5,
                                     .queued_tokens = 6}));
  EXPECT_EQ((*tenants)[1].role, Role::kMonitor);
  EXPECT_EQ((*tenants)[2].role, Role::kAdmin);
}

struct Bad {
  const char* what;
  const char* text;  // %T and %O stand for the two tokens
  const char* message;
};

std::string Fill(std::string text) {
  for (const auto& [mark, token] : {std::pair("%T", kToken), std::pair("%O", kOther)}) {
    for (size_t at; (at = text.find(mark)) != std::string::npos;) text.replace(at, 2, token);
  }
  return text;
}

TEST(TenantsFileTest, SaysWhatIsWrongAndWhere) {
  const Bad cases[] = {
      {"empty", "", "t.yaml:1: tenants: expected this one key"},
      {"no YAML", "tenants: [", "t.yaml:1: not YAML"},
      {"tabs", "tenants:\n\t- name: a\n", "t.yaml:2: not YAML"},
      {"another key", "tenant:\n- {name: a, tokens: [%T]}", "t.yaml:1: tenants: expected this one"},
      {"two keys", "tenants: [{name: a, tokens: [%T]}]\nmore: 1", "expected this one key"},
      {"no list", "tenants: yes", "t.yaml:1: tenants: expected a list of 1 to 64"},
      {"none", "tenants: []", "expected a list of 1 to 64"},
      {"no mapping", "tenants:\n- chat", "t.yaml:2: tenants[0]: expected a mapping"},
      {"no name", "tenants:\n- tokens: [%T]", "t.yaml:2: tenants[0].name: is missing"},
      {"bad name", "tenants:\n- name: a b\n  tokens: [%T]", "t.yaml:2: tenants[0].name: \"a b\""},
      {"name is a list", "tenants:\n- name: [a]\n  tokens: [%T]",
       "tenants[0].name: expected a name"},
      {"no tokens", "tenants:\n- name: a", "tenants[0].tokens: is missing"},
      {"no token", "tenants:\n- name: a\n  tokens: []",
       "t.yaml:3: tenants[0].tokens: expected a list"},
      {"tokens is one", "tenants:\n- name: a\n  tokens: %T", "tenants[0].tokens: expected a list"},
      {"short token", "tenants:\n- name: a\n  tokens: [%T, secret]",
       "t.yaml:3: tenants[0].tokens[1]: has 6 bytes, expected 16 to 512"},
      {"space in it", "tenants:\n- name: a\n  tokens: ['%T secret']", "has 23 bytes, expected 16"},
      {"short hash", "tenants:\n- name: a\n  token_sha256: [abcd]",
       "tenants[0].token_sha256[0]: has 4 characters, expected the 64 hex digits"},
      {"role", "tenants:\n- name: a\n  role: root\n  tokens: [%T]",
       "t.yaml:3: tenants[0].role: \"root\", expected tenant, monitor or admin"},
      {"size", "tenants:\n- name: a\n  tokens: [%T]\n  max_kv_bytes: many",
       "t.yaml:4: tenants[0].max_kv_bytes: \"many\", expected a size of at least 2MiB"},
      {"small size", "tenants:\n- name: a\n  tokens: [%T]\n  max_kv_bytes: 1MiB", "at least 2MiB"},
      {"no bytes", "tenants:\n- name: a\n  tokens: [%T]\n  max_staging_bytes: 0", "at least 1"},
      {"negative", "tenants:\n- name: a\n  tokens: [%T]\n  max_sessions: -1",
       "tenants[0].max_sessions: \"-1\", expected a whole number"},
      {"zero", "tenants:\n- name: a\n  tokens: [%T]\n  max_caches: 0",
       "max_caches: \"0\", expected"},
      {"fraction", "tenants:\n- name: a\n  tokens: [%T]\n  max_sequences: 1.5",
       "\"1.5\", expected"},
      {"text", "tenants:\n- name: a\n  tokens: [%T]\n  max_queued_items: many",
       "\"many\", expected"},
      {"list", "tenants:\n- name: a\n  tokens: [%T]\n  max_queued_tokens: [1]", "expected a whole"},
      {"huge", "tenants:\n- name: a\n  tokens: [%T]\n  max_queued_requests: 99999999999999999999",
       "expected a whole number, 1 to 9223372036854775807"},
      {"misspelt", "tenants:\n- name: a\n  tokens: [%T]\n  max_sesions: 1",
       "t.yaml:4: tenants[0].max_sesions: unknown key; did you mean max_sessions?"},
      {"unknown", "tenants:\n- name: a\n  tokens: [%T]\n  colour: red",
       "tenants[0].colour: unknown key"},
      {"said twice", "tenants:\n- name: a\n  tokens: [%T]\n  name: b",
       "t.yaml:4: tenants[0].name: is said twice"},
      {"one name", "tenants:\n- {name: a, tokens: [%T]}\n- {name: a, tokens: [%O]}",
       "t.yaml:3: tenants[1].name: \"a\" is the name of tenants[0], too"},
      {"one token", "tenants:\n- {name: a, tokens: [%T]}\n- {name: b, tokens: [%T]}",
       "t.yaml:3: tenants[1]: a token of \"b\" is one of \"a\", too"},
      {"a token twice", "tenants:\n- {name: a, tokens: [%T, %T]}", "a token is given twice"},
      {"limits of a monitor", "tenants:\n- {name: a, role: monitor, tokens: [%T], max_caches: 2}",
       "t.yaml:2: tenants[0]: has limits, but the role monitor"},
  };
  for (const Bad& bad : cases) {
    SCOPED_TRACE(bad.what);
    const auto tenants = ParseTenants(Fill(bad.text), "t.yaml");
    ASSERT_EQ(tenants.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(tenants.status().message());
    EXPECT_THAT(message, HasSubstr(bad.message));
    EXPECT_THAT(message, Not(HasSubstr(kToken)));
    EXPECT_THAT(message, Not(HasSubstr("secret")));
  }
}

// A token and its own hash are one token.
TEST(TenantsFileTest, AHashIsTheTokenItIsOf) {
  const auto tenants =
      ParseTenants(absl::StrCat("tenants:\n- {name: a, tokens: [", kToken,
                                "]}\n- {name: b, token_sha256: [", HexOf(kToken), "]}"),
                   "t.yaml");
  EXPECT_THAT(std::string(tenants.status().message()), HasSubstr("a token names one tenant"));
}

TEST(TenantsFileTest, TooManyTenants) {
  std::string text = "tenants:\n";
  for (int i = 0; i <= kMaxTenants; ++i) {
    absl::StrAppend(&text, "- {name: t", i, ", tokens: [token-number-", 10000 + i, "]}\n");
  }
  EXPECT_THAT(std::string(ParseTenants(text, "t.yaml").status().message()),
              HasSubstr("expected a list of 1 to 64 tenants"));
}

class SecretFileTest : public testing::Test {
 protected:
  SecretFileTest() {
    char path[] = "/tmp/attnd-secret-XXXXXX";
    close(mkstemp(path));
    path_ = path;
    std::ofstream(path_) << "hello";
  }
  ~SecretFileTest() override { unlink(path_.c_str()); }

  std::string path_;
};

TEST_F(SecretFileTest, OthersMustNotReadIt) {
  for (const mode_t mode : {0600, 0400, 0640, 0440}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    const auto text = ReadSecretFile(path_);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, "hello");
  }
  for (const mode_t mode : {0644, 0604, 0602}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    EXPECT_THAT(std::string(ReadSecretFile(path_).status().message()),
                testing::AllOf(HasSubstr(path_), HasSubstr("lets everybody read or change it"),
                               HasSubstr("chmod 0600")));
  }
}

TEST_F(SecretFileTest, ItMustBeAFile) {
  EXPECT_THAT(std::string(ReadSecretFile("/nowhere/tenants").status().message()),
              HasSubstr("\"/nowhere/tenants\": No such file or directory"));
  EXPECT_THAT(std::string(ReadSecretFile("/tmp").status().message()),
              HasSubstr("not a regular file"));
  ASSERT_EQ(truncate(path_.c_str(), (1 << 20) + 1), 0);
  ASSERT_EQ(chmod(path_.c_str(), 0600), 0);
  EXPECT_THAT(std::string(ReadSecretFile(path_).status().message()), HasSubstr("1048577 bytes"));
}

}  // namespace
}  // namespace attnd
