// SPDX-License-Identifier: Apache-2.0
#include "server/rpc/listen_address.h"

#include <gtest/gtest.h>

namespace attnd {
namespace {

TEST(ListenAddressTest, ReadsWhatItWrites) {
  for (const char* text :
       {"127.0.0.1:7450", "[::1]:0", "localhost:65535", "unix:/run/attnd.sock"}) {
    const auto address = ParseListenAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(DialString(*address, address->port), text);
    EXPECT_TRUE(IsLoopback(*address)) << text;
    EXPECT_TRUE(CheckPlainTextAllowed(*address, /*insecure=*/false, kPlainTextListen).ok());
  }
  EXPECT_EQ(ParseListenAddress("unix:///run/a")->path, "/run/a");
}

TEST(ListenAddressTest, PlainTextLeavesTheMachineOnlyWhereAllowed) {
  for (const char* text : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "128.0.0.1:1", "example.org:1"}) {
    const auto address = ParseListenAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_FALSE(CheckPlainTextAllowed(*address, /*insecure=*/false, kPlainTextListen).ok())
        << text;
    EXPECT_TRUE(CheckPlainTextAllowed(*address, /*insecure=*/true, kPlainTextListen).ok()) << text;
  }
}

TEST(ListenAddressTest, RefusesWhatIsNoAddress) {
  for (const char* text : {"", ":1", "host", "host:", "host:65536", "host:-1", "host:1x",
                           "::1:7450", "[]:1", "unix:"}) {
    EXPECT_EQ(ParseListenAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace attnd
