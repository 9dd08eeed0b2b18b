// SPDX-License-Identifier: Apache-2.0
#include "server/preflight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Options Good() {
  Options options;
  options.backend = "cpu";
  options.listen = {"unix:/tmp/attnd-preflight-test.sock", "127.0.0.1:0"};
  options.metrics_listen = "";
  return options;
}

// Holds a port of the loopback address.
class TakenPort {
 public:
  TakenPort() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    name_.sin_family = AF_INET;
    name_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(name_);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&name_), size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&name_), &size), 0);
  }
  ~TakenPort() { close(fd_); }
  TakenPort(const TakenPort&) = delete;
  TakenPort& operator=(const TakenPort&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(ntohs(name_.sin_port)); }

 private:
  const int fd_;
  sockaddr_in name_{};
};

TEST(PreflightTest, NothingIsWrongWithWhatIsRight) {
  const Preflight found = CheckFiles(Good());
  EXPECT_THAT(found.errors, IsEmpty());
  EXPECT_THAT(found.warnings, IsEmpty());
  EXPECT_TRUE(CheckPorts(Good()).ok()) << CheckPorts(Good());
  EXPECT_NE(access("/tmp/attnd-preflight-test.sock", F_OK), 0) << "a look only";
}

TEST(PreflightTest, AMissingFolderIsNamedWithWhatToDo) {
  Options options = Good();
  options.listen = {"unix:/run/attnd-not-there/attnd.sock"};
  EXPECT_THAT(
      CheckFiles(options).errors,
      ElementsAre("--listen: Unix socket \"/run/attnd-not-there/attnd.sock\": there is no "
                  "directory \"/run/attnd-not-there\": create it, writable for the daemon's "
                  "user (a systemd unit does with RuntimeDirectory=attnd-not-there)"));
  options.listen = {"unix:/etc/passwd/attnd.sock"};
  EXPECT_THAT(CheckFiles(options).errors, ElementsAre(HasSubstr("is no directory")));
  options.listen = {"unix:/etc/passwd/attnd/attnd.sock"};
  EXPECT_THAT(CheckFiles(options).errors, ElementsAre(HasSubstr("Not a directory")));
}

TEST(PreflightTest, ASocketsPathHasALimit) {
  Options options = Good();
  options.listen = {"unix:/tmp/" + std::string(103, 'a')};
  EXPECT_THAT(CheckFiles(options).errors, ElementsAre(HasSubstr("108 bytes, at most 107 fit")));
  options.listen = {"unix:/tmp/" + std::string(102, 'a')};
  EXPECT_THAT(CheckFiles(options).errors, IsEmpty());
  options.listen = {"unix:relative.sock"};
  EXPECT_THAT(CheckFiles(options).errors, IsEmpty());
}

TEST(PreflightTest, APluginThatIsInsistedOnMustBeThere) {
  Options options = Good();
  options.hip_plugin = "/nonexistent/p.so";
  EXPECT_THAT(CheckFiles(options).errors, IsEmpty()) << "the CPU needs none";
  options.backend = "hip";
  EXPECT_THAT(CheckFiles(options).errors,
              ElementsAre("--hip_plugin \"/nonexistent/p.so\": No such file or directory; expected "
                          "the GPU plugin, libattnd_hip.so"));
  options.backend = "auto";
  EXPECT_THAT(CheckFiles(options).errors, IsEmpty());
  EXPECT_THAT(CheckFiles(options).warnings, ElementsAre(HasSubstr("the CPU serves")));
}

TEST(PreflightTest, APortThatIsTakenIsNamedWithItsFlag) {
  const TakenPort taken;
  Options options = Good();
  options.listen = {"127.0.0.1:0", taken.address()};
  EXPECT_EQ(CheckPorts(options).message(), "--listen: cannot listen on \"" + taken.address() +
                                               "\": it is in use: another process listens there");
  options = Good();
  options.metrics_listen = taken.address();
  EXPECT_THAT(CheckPorts(options).message(), HasSubstr("--metrics_listen: cannot listen on"));
}

TEST(PreflightTest, AnAddressOfAnotherMachineIsNamed) {
  Options options = Good();
  options.listen = {"192.0.2.1:7450"};  // TEST-NET-1, nobody's
  EXPECT_THAT(CheckPorts(options).message(), HasSubstr("it is no address of this machine"));
}

}  // namespace
}  // namespace attnd
