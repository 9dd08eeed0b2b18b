// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/token_source.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/temp_folder.h"
#include "tests/fakes/test_certificates.h"

namespace attnd::client {
namespace {

using testing::HasSubstr;
using testing::Not;

class TokenSourceTest : public testing::Test {
 protected:
  std::string ErrorOf(const Credentials& credentials) {
    const auto source = TokenSource::Make(credentials);
    return source.ok() ? "" : std::string(source.status().message());
  }

  const TempFolder folder_;
  const std::string path_ = folder_.File("token");
};

TEST_F(TokenSourceTest, IsTheTokenTheFilesOrNone) {
  EXPECT_EQ((*TokenSource::Make({}))->Current(), "");
  EXPECT_EQ((*TokenSource::Make({.token = "given"}))->Current(), "given");
  WritePem(path_, " of-the-file\n");
  EXPECT_EQ((*TokenSource::Make({.token_file = path_}))->Current(), "of-the-file");
  EXPECT_THAT(ErrorOf({.token = "given", .token_file = path_}), HasSubstr("both given"));
}

TEST_F(TokenSourceTest, RefusesWhatIsNoToken) {
  EXPECT_THAT(ErrorOf({.token_file = path_}), HasSubstr("No such file"));
  WritePem(path_, "\n");
  EXPECT_EQ(ErrorOf({.token_file = path_}), "token_file: " + path_ + " is empty");
  WritePem(path_, "secret words");
  EXPECT_THAT(ErrorOf({.token_file = path_}),
              AllOf(HasSubstr("has 12 bytes, some of them spaces"), Not(HasSubstr("secret"))));
  WritePem(path_, std::string(5000, 'x'));
  EXPECT_THAT(ErrorOf({.token_file = path_}),
              AllOf(HasSubstr("has 5000 bytes"), Not(HasSubstr("xx"))));
  WritePem(path_, "good", 0644);
  EXPECT_THAT(ErrorOf({.token_file = path_}), HasSubstr("every user may read it"));
}

TEST_F(TokenSourceTest, ANewFileIsReadByTheNextCall) {
  WritePem(path_, "one");
  const auto source = *TokenSource::Make({.token_file = path_});
  EXPECT_EQ(source->Current(), "one");
  WritePem(path_, "two");
  EXPECT_EQ(source->Current(), "two");
  EXPECT_FALSE(source->HasOtherThan("two"));
  WritePem(path_, "three");
  EXPECT_TRUE(source->HasOtherThan("two"));
}

TEST_F(TokenSourceTest, TheLastGoodTokenStaysWhileAFileIsBad) {
  WritePem(path_, "good");
  const auto source = *TokenSource::Make({.token_file = path_});
  std::filesystem::remove(path_);
  EXPECT_EQ(source->Current(), "good");
  EXPECT_THAT(source->Describe(), HasSubstr("No such file"));
  WritePem(path_, "exposed", 0644);
  EXPECT_EQ(source->Current(), "good");
  EXPECT_THAT(source->Describe(), AllOf(HasSubstr("mode 0644"), Not(HasSubstr("exposed"))));
  WritePem(path_, "better");
  EXPECT_EQ(source->Current(), "better");
  EXPECT_EQ(source->Describe(), "the token of " + path_);
}

}  // namespace
}  // namespace attnd::client
