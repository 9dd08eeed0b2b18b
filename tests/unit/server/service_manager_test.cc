// SPDX-License-Identifier: Apache-2.0
#include "server/service_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace attnd {
namespace {

using ::testing::HasSubstr;

// What systemd is to the daemon: a datagram socket.
class Listener {
 public:
  explicit Listener(const std::string& name) : fd_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') {
      address.sun_path[0] = '\0';
    } else {
      path_ = name;
    }
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
  }
  ~Listener() {
    close(fd_);
    if (!path_.empty()) unlink(path_.c_str());
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  std::string Receive() const {
    char buffer[1024];
    const ssize_t size = recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
    return size < 0 ? "(nothing)" : std::string(buffer, static_cast<size_t>(size));
  }

 private:
  const int fd_;
  std::string path_;
};

TEST(ServiceManagerTest, SaysThatItIsReadyAndThatItStops) {
  const std::string id = std::to_string(getpid());
  for (const std::string& name : {"/tmp/attnd-notify-" + id, "@attnd-notify-" + id}) {
    const Listener listener(name);
    const ServiceManager manager(name.c_str());
    EXPECT_TRUE(manager.Ready("serving on\nREADY=0").ok());
    EXPECT_EQ(listener.Receive(), "READY=1\nSTATUS=serving on READY=0");
    EXPECT_TRUE(manager.Stopping(std::chrono::seconds(30)).ok());
    EXPECT_EQ(listener.Receive(), "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=40000000");
    EXPECT_TRUE(manager.Stopping(Duration::max()).ok());
    EXPECT_EQ(listener.Receive(),
              "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=31536010000000");
    EXPECT_EQ(listener.Receive(), "(nothing)");
  }
}

TEST(ServiceManagerTest, WithoutASocketNobodyIsTold) {
  EXPECT_TRUE(ServiceManager(nullptr).Ready("serving").ok());
  EXPECT_TRUE(ServiceManager("").Stopping(Duration::zero()).ok());
}

TEST(ServiceManagerTest, ASocketThatCannotBeUsedIsNamed) {
  for (const std::string& name : {std::string("/nonexistent/notify"), std::string("vsock:2:1"),
                                  "/" + std::string(200, 'a')}) {
    const absl::Status status = ServiceManager(name.c_str()).Ready("serving");
    EXPECT_THAT(status.message(), HasSubstr("NOTIFY_SOCKET=\"" + name + "\": "));
  }
}

}  // namespace
}  // namespace attnd
