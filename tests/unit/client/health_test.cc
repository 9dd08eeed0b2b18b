// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cpp/error_detail.h"
#include "tests/unit/client/fake_daemon.h"

namespace attnd::client {
namespace {

using testing::HasSubstr;

TEST(HealthTest, SaysWhetherTheDaemonServes) {
  FakeDaemon daemon;
  EXPECT_TRUE(CheckHealth({.address = daemon.address()}).ok());
  daemon.SetServing(false);
  const absl::Status status = CheckHealth({.address = daemon.address()});
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_FALSE(IsChannelError(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("says NOT_SERVING, expected SERVING"));
}

TEST(HealthTest, KnowsServicesByName) {
  FakeDaemon daemon;
  EXPECT_TRUE(
      CheckHealth({.address = daemon.address(), .service = "attnd.v1.AttentionService"}).ok());
  EXPECT_TRUE(absl::IsNotFound(
      CheckHealth({.address = daemon.address(), .service = "attnd.v1.NoSuchService"})));
}

TEST(HealthTest, NobodyAtTheAddressIsAnErrorOfTheChannel) {
  std::string address;
  {
    FakeDaemon daemon;
    address = daemon.address();
  }
  const absl::Status status = CheckHealth({.address = address});
  EXPECT_TRUE(IsChannelError(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(address));
}

TEST(HealthTest, NeedsNoToken) {
  FakeDaemon daemon;
  EXPECT_TRUE(
      CheckHealth({.address = daemon.address(), .credentials = {.token_file = "/nowhere/token"}})
          .ok());
}

}  // namespace
}  // namespace attnd::client
