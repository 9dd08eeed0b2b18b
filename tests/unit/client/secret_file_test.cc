// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/secret_file.h"

#include <sys/stat.h>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/temp_folder.h"
#include "tests/fakes/test_certificates.h"

namespace attnd::client {
namespace {

using testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(SecretFileTest, OwnerAndGroupMayReadASecretAndNobodyElse) {
  for (const mode_t mode : {0400, 0600, 0440, 0640}) {
    EXPECT_TRUE(CheckSecretMode("token_file", "/x", mode).ok()) << mode;
  }
  for (const mode_t mode : {0644, 0604, 0660, 0620, 0602, 0601, 0777}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckSecretMode("token_file", "/x", mode))) << mode;
  }
  EXPECT_EQ(MessageOf(CheckSecretMode("token_file", "/x", 0644)),
            "token_file: /x has mode 0644: every user may read it, expected at most 0640 (chmod "
            "600 /x)");
}

TEST(SecretFileTest, ReadsAndRefusesByTheModeOfTheFile) {
  const TempFolder folder;
  const std::string path = folder.File("secret");
  WritePem(path, "content");
  EXPECT_EQ(*ReadSecretFile("tls_key", path), "content");
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  EXPECT_THAT(MessageOf(ReadSecretFile("tls_key", path).status()), HasSubstr("has mode 0644"));
  EXPECT_EQ(*ReadSmallFile("tls_ca", path), "content");
}

TEST(SecretFileTest, SaysWhyAFileCannotBeRead) {
  const TempFolder folder;
  EXPECT_EQ(MessageOf(ReadSmallFile("tls_ca", folder.File("none")).status()),
            "tls_ca: cannot read " + folder.File("none") + ": No such file or directory");
  EXPECT_THAT(MessageOf(ReadSmallFile("tls_ca", folder.path()).status()),
              HasSubstr("Is a directory"));
  WritePem(folder.File("large"), std::string((1 << 20) + 1, 'x'));
  EXPECT_THAT(MessageOf(ReadSmallFile("tls_ca", folder.File("large")).status()),
              HasSubstr("is larger than 1048576 bytes"));
}

TEST(SecretFileTest, TheStampChangesWithTheContent) {
  const TempFolder folder;
  const std::string path = folder.File("file");
  EXPECT_EQ(StampOf(path), FileStamp());
  WritePem(path, "one");
  const FileStamp first = StampOf(path);
  EXPECT_EQ(StampOf(path), first);
  WritePem(path, "two");  // as long as before, and another inode
  EXPECT_NE(StampOf(path), first);
}

}  // namespace
}  // namespace attnd::client
