// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/internal/address.h"

#include <gtest/gtest.h>

namespace attnd::client {
namespace {

TEST(AddressTest, IsAHostWithAPortOrAPath) {
  for (const char* good : {"127.0.0.1:7450", "[::1]:7450", "attnd.example:1", "unix:/run/a"}) {
    EXPECT_TRUE(CheckAddress(good).ok()) << good;
  }
  for (const char* bad : {"", "localhost", ":7450", "localhost:", "unix:"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckAddress(bad))) << bad;
  }
}

TEST(AddressTest, LoopbackIsWhatNeverLeavesTheMachine) {
  for (const char* local : {"127.0.0.1:1", "127.3.2.1:1", "[::1]:1", "localhost:1"}) {
    EXPECT_TRUE(IsLoopback(local)) << local;
  }
  // Somebody's names, other numbers, and spellings that only a resolver reads.
  for (const char* remote :
       {"10.0.0.1:1", "0.0.0.0:1", "[::]:1", "[fe80::1]:1", "127.example.com:1",
        "localhost.example.com:1", "attnd:1", "128.0.0.1:1", "127.1:1"}) {
    EXPECT_FALSE(IsLoopback(remote)) << remote;
  }
}

TEST(AddressTest, KnowsUnixSockets) {
  EXPECT_TRUE(IsUnixSocket("unix:/run/attnd/attnd.sock"));
  EXPECT_FALSE(IsUnixSocket("unix.example:7450"));
}

}  // namespace
}  // namespace attnd::client
