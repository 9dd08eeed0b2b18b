// SPDX-License-Identifier: Apache-2.0
//
// The attnd program itself: its start, its signals, its exit codes, and what a restart means.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/fakes/built_files.h"
#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Code = grpc::StatusCode;

TEST(ProcessTest, SigtermDrainsAndExitsWithZero) {
  ChildDaemon daemon;
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  TestClient client(daemon.address());
  const TestSession session = client.NewSession();
  Batch batch(session);
  batch.Add({.sequence = client.NewSequence(session, client.OpenCache()), .rows = 3});
  EXPECT_TRUE(client.Attend(batch.request()).status.ok());
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
  EXPECT_THAT(daemon.log(), HasSubstr("drained"));
  EXPECT_FALSE(std::filesystem::exists(daemon.dir().path("ready.json")));
  EXPECT_FALSE(std::filesystem::exists(daemon.dir().path("s")));
}

TEST(ProcessTest, TheEndOfStandardInputDrainsWhereAskedFor) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const int own_stdin = dup(STDIN_FILENO);
  ASSERT_EQ(dup2(pipe_fds[0], STDIN_FILENO), STDIN_FILENO);
  ChildDaemon daemon({"--exit_with_stdin"});
  ChildDaemon deaf;
  dup2(own_stdin, STDIN_FILENO);
  close(own_stdin);
  close(pipe_fds[0]);
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  ASSERT_EQ(write(pipe_fds[1], "ignored", 7), 7);
  TestClient client(daemon.address());
  EXPECT_FALSE(client.Stats().draining());
  close(pipe_fds[1]);
  EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
  EXPECT_THAT(daemon.log(), HasSubstr("the end of standard input: draining"));
  EXPECT_THAT(daemon.log(), HasSubstr("drained"));
  // The same end of input means nothing to a daemon that was not told to heed it.
  EXPECT_FALSE(TestClient(deaf.address()).Stats().draining());
  deaf.Signal(SIGINT);
  EXPECT_EQ(deaf.Wait(), 0) << deaf.log();
  EXPECT_THAT(deaf.log(), HasSubstr("SIGINT: draining"));
}

TEST(ProcessTest, SaysWhyItChoseItsBackend) {
  const std::string good = "--hip_plugin=" + BuiltTestPlugin("attnd_fake_plugin_good");
  const std::string bad = "--hip_plugin=" + BuiltTestPlugin("attnd_fake_plugin_other_version");
  const struct {
    std::vector<std::string> flags;
    std::string logged;
  } cases[] = {
      {{good}, "backend: fake (none), chosen because there is a GPU"},
      {{good, "--backend=cpu"}, "as asked for with --backend"},
      {{bad}, "chosen because no GPU can be used: "},
  };
  for (const auto& [flags, logged] : cases) {
    ChildDaemon daemon(flags);
    EXPECT_TRUE(daemon.serving()) << daemon.log();
    EXPECT_THAT(daemon.log(), HasSubstr(logged));
    daemon.Signal(SIGTERM);
    EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
  }
  ChildDaemon insists({bad, "--backend=hip"});
  EXPECT_FALSE(insists.serving());
  EXPECT_EQ(insists.Wait(), 1);
  EXPECT_THAT(insists.log(), HasSubstr("cannot start: --backend=hip: "));
  EXPECT_THAT(insists.log(), HasSubstr("its plugin interface is version "));
}

TEST(ProcessTest, DrainsUnderLoadWithoutLosingAnAnswer) {
  ChildDaemon daemon;
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  TestClient setup(daemon.address());
  const v1::Id cache = setup.OpenCache();
  std::atomic<int> served = 0;
  std::vector<std::thread> clients;
  clients.reserve(3);
  for (int c = 0; c < 3; ++c) {
    clients.emplace_back([&] {
      TestClient client(daemon.address());
      const TestSession session = client.NewSession();
      const v1::Id sequence = client.NewSequence(session, cache);
      for (int64_t i = 0;; ++i) {
        Batch batch(session);
        batch.Add({.sequence = sequence, .step = static_cast<uint64_t>(i) + 1, .start = i});
        const AttendReply reply = client.Attend(batch.request());
        // Until the drain begins everything is served. From then on it is refused, or there is
        // nobody any more (UNAVAILABLE), or gRPC itself cancels what arrives as it shuts down
        // (CANCELLED). All three mean that nothing was written.
        if (!reply.status.ok()) {
          const Code code = reply.status.error_code();
          EXPECT_TRUE(code == Code::UNAVAILABLE || code == Code::CANCELLED)
              << code << ": " << reply.status.error_message();
          return;
        }
        EXPECT_EQ(reply.response.results(0).status().code(), Code::OK)
            << reply.response.results(0).status().message();
        ++served;
      }
    });
  }
  while (served < 60) std::this_thread::yield();
  daemon.Signal(SIGTERM);
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
  EXPECT_THAT(daemon.log(), HasSubstr("drained"));
}

TEST(ProcessTest, ARestartMakesOldIdsNotFound) {
  TestSession session;
  v1::Id sequence;
  {
    ChildDaemon daemon;
    ASSERT_TRUE(daemon.serving()) << daemon.log();
    TestClient client(daemon.address());
    session = client.NewSession();
    sequence = client.NewSequence(session, client.OpenCache());
    daemon.Signal(SIGKILL);
    EXPECT_EQ(daemon.Wait(), 128 + SIGKILL);
  }
  ChildDaemon daemon;
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  TestClient client(daemon.address());
  // The same slots are taken again, by others.
  const TestSession other = client.NewSession();
  client.NewSequence(other, client.OpenCache());
  Batch batch(session);
  batch.Add({.sequence = sequence});
  EXPECT_EQ(client.Attend(batch.request()).status.error_code(), Code::NOT_FOUND);
  Batch mine(other);
  mine.Add({.sequence = sequence});
  EXPECT_EQ(client.Attend(mine.request()).response.results(0).status().code(), Code::NOT_FOUND);
  grpc::ClientContext context;
  v1::ResumeSessionRequest request;
  v1::ResumeSessionResponse response;
  request.set_token(session.token);
  EXPECT_EQ(client.sessions->ResumeSession(&context, request, &response).error_code(),
            Code::NOT_FOUND);
}

TEST(ProcessTest, TheSocketIsTheOwnersAlone) {
  ChildDaemon daemon;
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  struct stat status {};
  ASSERT_EQ(stat(daemon.dir().path("s").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(ProcessTest, AStaleSocketIsReplacedAndALiveOneIsNot) {
  const TempDir dir;
  const std::string path = dir.path("taken");
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  {
    ChildDaemon refused({"--listen=unix:" + path});
    EXPECT_FALSE(refused.serving());
    EXPECT_EQ(refused.Wait(), 1);
    EXPECT_THAT(refused.log(), HasSubstr("in use"));
  }
  close(fd);  // its owner dies; the file stays
  ASSERT_TRUE(std::filesystem::exists(path));
  ChildDaemon daemon({"--listen=unix:" + path});
  EXPECT_TRUE(daemon.serving()) << daemon.log();
}

TEST(ProcessTest, AFileThatIsNoSocketIsLeftAlone) {
  const TempDir dir;
  std::ofstream(dir.path("notes")) << "keep me";
  ChildDaemon daemon({"--listen=unix:" + dir.path("notes")});
  EXPECT_EQ(daemon.Wait(), 1);
  EXPECT_THAT(daemon.log(), HasSubstr("is not a socket"));
  EXPECT_TRUE(std::filesystem::exists(dir.path("notes")));
}

TEST(ProcessTest, TwoDaemonsDoNotShareAPort) {
  ChildDaemon first({"--listen=127.0.0.1:0"});
  ASSERT_TRUE(first.serving()) << first.log();
  const std::string log = first.log();
  const std::string marker = "serving on 127.0.0.1:";
  const size_t at = log.find(marker);
  ASSERT_NE(at, std::string::npos) << log;
  const std::string port = log.substr(at + marker.size(), log.find('\n', at) - at - marker.size());
  ChildDaemon second({"--listen=127.0.0.1:" + port});
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.log(), HasSubstr("cannot listen on \"127.0.0.1:" + port));
}

TEST(ProcessTest, BadOptionsExitWithTwoAndSayWhy) {
  const std::pair<const char*, const char*> cases[] = {
      {"--pool_bytes=1", "--pool_bytes 1: expected 2MiB to 64TiB"},
      {"--pool_byte=1GiB", "unknown option --pool_byte=1GiB; did you mean --pool_bytes?"},
      {"--num_threads=many", "\"many\" is not a whole number"},
      {"--backend=abacus", "--backend \"abacus\": expected one of auto, cpu"},
      {"--listen=0.0.0.0:0", "is not a loopback address"},
      {"--config=/nonexistent", "/nonexistent"}};
  for (const auto& [flag, message] : cases) {
    ChildDaemon daemon({flag});
    EXPECT_EQ(daemon.Wait(), 2) << flag;
    EXPECT_THAT(daemon.log(), HasSubstr(message)) << flag;
  }
}

TEST(ProcessTest, TheLogLevelIsChangedWhileItRuns) {
  // What an idle daemon logs at debug.
  ChildDaemon daemon({"--integrity_check_interval=1ms", "--log_format=json"});
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  TestClient client(daemon.address());
  EXPECT_THAT(daemon.log(), Not(HasSubstr("integrity:")));
  const auto set = [&](const std::string& level) {
    grpc::ClientContext context;
    v1::SetLogLevelRequest request;
    v1::SetLogLevelResponse response;
    request.set_level(level);
    const grpc::Status status = client.admin->SetLogLevel(&context, request, &response);
    return status.ok() ? response.former() + " to " + response.level() : status.error_message();
  };
  EXPECT_EQ(set("debug"), "info to debug");
  EXPECT_THAT(daemon.log(), HasSubstr("\"msg\":\"log level changed\",\"former\":\"info\","
                                      "\"level\":\"debug\""));
  while (daemon.log().find("\"level\":\"debug\",\"msg\":\"integrity: ") == std::string::npos) {
    std::this_thread::yield();
  }
  EXPECT_EQ(set(""), "debug to debug");
  EXPECT_THAT(set("Debug"), HasSubstr("\"Debug\": expected one of trace, debug, info, warning"));
  EXPECT_EQ(set("warning"), "debug to warning");
  // Nothing of lower levels comes any more: the end of the drain is not said.
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 0);
  EXPECT_THAT(daemon.log(), Not(HasSubstr("drained")));
}

TEST(ProcessTest, AHangupEndsNothingWithoutATerminal) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const int own_stdin = dup(STDIN_FILENO);
  ASSERT_EQ(dup2(pipe_fds[0], STDIN_FILENO), STDIN_FILENO);
  ChildDaemon daemon;
  dup2(own_stdin, STDIN_FILENO);
  close(own_stdin);
  close(pipe_fds[0]);
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  daemon.Signal(SIGHUP);
  while (daemon.log().find("SIGHUP: nothing to do") == std::string::npos) {
    std::this_thread::yield();
  }
  EXPECT_FALSE(TestClient(daemon.address()).Stats().draining());
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 0);
  EXPECT_THAT(daemon.log(), HasSubstr("SIGTERM: draining"));
  close(pipe_fds[1]);
}

TEST(ProcessTest, ASecondSignalExitsAtOnce) {
  ChildDaemon daemon({"--max_linger=10s", "--drain_timeout=1h"});
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  TestClient client(daemon.address());
  const TestSession session = client.NewSession();
  Batch batch(session);
  batch.Add({.sequence = client.NewSequence(session, client.OpenCache())});
  // Lingers for ten seconds, so that the drain has something to wait for.
  PendingAttend pending = client.StartAttend(batch.request());
  while (client.Stats().queued_items() != 1) {
  }
  daemon.Signal(SIGTERM);
  while (!client.Stats().draining()) {
  }
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 128 + SIGTERM);
  EXPECT_EQ(pending.status.get().error_code(), Code::UNAVAILABLE);
}

}  // namespace
}  // namespace attnd
