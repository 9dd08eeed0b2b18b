// SPDX-License-Identifier: Apache-2.0
//
// The HTTP port, asked through a plain socket.
#include "server/observe/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "server/observe/page_assets.h"

namespace attnd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The whole answer to one request, headers and all.
std::string Ask(const std::string& address, const std::string& request) {
  const size_t colon = address.rfind(':');
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &peer.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) != 0) {
    close(fd);
    return "cannot connect";
  }
  EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

std::string Get(const std::string& address, const std::string& path) {
  return Ask(address, "GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n");
}

class HttpServerTest : public testing::Test {
 protected:
  HttpServerTest() {
    auto server = HttpServer::Start("127.0.0.1:0", Handlers());
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  HttpServer::Handlers Handlers() {
    return {
        .metrics = [] { return std::string("attnd_up 1\n"); },
        .live =
            [this] {
              return live_ ? absl::OkStatus() : absl::InternalError("device \"x\" failed: lost");
            },
        .ready = [this] { return ready_ ? absl::OkStatus() : absl::UnavailableError("draining"); }};
  }

  std::atomic<bool> live_ = true, ready_ = true;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, ReportsThePortThatItTook) {
  EXPECT_THAT(server_->address(), StartsWith("127.0.0.1:"));
  EXPECT_NE(server_->address(), "127.0.0.1:0");
}

TEST_F(HttpServerTest, ServesMetricsAsPrometheusWantsThem) {
  EXPECT_THAT(Get(server_->address(), "/metrics"),
              AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), HasSubstr("text/plain; version=0.0.4"),
                    HasSubstr("Content-Length: 11\r\n"), HasSubstr("\r\n\r\nattnd_up 1\n")));
}

TEST_F(HttpServerTest, TellsLivenessFromReadiness) {
  EXPECT_THAT(Get(server_->address(), "/healthz"),
              AllOf(HasSubstr(" 200 "), HasSubstr("\r\nok\n")));
  EXPECT_THAT(Get(server_->address(), "/readyz"), AllOf(HasSubstr(" 200 "), HasSubstr("\r\nok\n")));
  ready_ = false;
  EXPECT_THAT(Get(server_->address(), "/healthz"), HasSubstr(" 200 "));
  EXPECT_THAT(Get(server_->address(), "/readyz"), AllOf(HasSubstr(" 503 "), HasSubstr("draining")));
  live_ = false;
  EXPECT_THAT(Get(server_->address(), "/healthz"),
              AllOf(HasSubstr(" 503 "), HasSubstr("device \"x\" failed: lost")));
}

TEST_F(HttpServerTest, RefusesWhatItDoesNotServe) {
  EXPECT_THAT(Get(server_->address(), "/"), HasSubstr(" 404 "));
  EXPECT_THAT(Get(server_->address(), "/metrics/x"), HasSubstr(" 404 "));
  EXPECT_THAT(Get(server_->address(), "/../../etc/passwd"), HasSubstr(" 404 "));
  EXPECT_THAT(
      Ask(server_->address(), "POST /metrics HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"),
      HasSubstr(" 405 "));
  const std::string head = Ask(server_->address(), "HEAD /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 11\r\n"));
  EXPECT_THAT(head, testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(Ask(server_->address(), "rubbish\r\n\r\n"), testing::Not(HasSubstr(" 200 ")));
}

// A server with a status page, for those who may see it.
class StatusPageTest : public testing::Test {
 protected:
  void Start(bool guarded) {
    HttpServer::Handlers handlers{.metrics = [] { return std::string("attnd_up 1\n"); },
                                  .live = [] { return absl::OkStatus(); },
                                  .ready = [] { return absl::OkStatus(); },
                                  .status = [] { return std::string("{\"version\":\"1\"}"); }};
    if (guarded) {
      handlers.authorize = [](std::optional<std::string_view> header) {
        if (!header) return absl::UnauthenticatedError("no token");
        if (*header == "Bearer of-a-tenant") return absl::PermissionDeniedError("not yours");
        return *header == "Bearer a:secret" ? absl::OkStatus()
                                            : absl::UnauthenticatedError("not one of ours");
      };
    }
    auto server = HttpServer::Start("127.0.0.1:0", std::move(handlers));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string Get(const std::string& path, const std::string& headers = "") {
    return Ask(server_->address(),
               "GET " + path + " HTTP/1.1\r\nHost: test\r\n" + headers + "\r\n");
  }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(StatusPageTest, ServesThePageAndItsParts) {
  Start(/*guarded=*/false);
  EXPECT_THAT(Get("/"), AllOf(StartsWith("HTTP/1.1 200 OK\r\n"),
                              HasSubstr("Content-Type: text/html; charset=utf-8\r\n"),
                              HasSubstr("<title>attnd</title>")));
  for (const PageAsset& asset : PageAssets()) {
    const std::string answer = Get("/page/" + std::string(asset.name));
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n")) << asset.name;
    EXPECT_TRUE(answer.ends_with(asset.content)) << asset.name;
    EXPECT_THAT(answer, testing::Not(HasSubstr("octet-stream"))) << asset.name;
  }
  EXPECT_THAT(Get("/page/style.css"), HasSubstr("Content-Type: text/css"));
  EXPECT_THAT(Get("/page/app.js"), HasSubstr("Content-Type: text/javascript"));
  EXPECT_THAT(Get("/api/status"), AllOf(HasSubstr("Content-Type: application/json"),
                                        HasSubstr("Cache-Control: no-store\r\n"),
                                        testing::EndsWith("\r\n\r\n{\"version\":\"1\"}")));
  for (const char* path : {"/page/", "/page", "/page/app", "/page/../page/app.js/", "/api", "/x"}) {
    EXPECT_THAT(Get(path), HasSubstr(" 404 ")) << path;
  }
}

TEST_F(StatusPageTest, EveryAnswerTellsTheBrowserToTrustNothingElse) {
  Start(/*guarded=*/false);
  for (const char* path : {"/", "/api/status", "/page/app.js", "/metrics", "/nothing"}) {
    EXPECT_THAT(
        Get(path),
        AllOf(HasSubstr("Content-Security-Policy: default-src 'none'; script-src 'self'; "),
              HasSubstr("frame-ancestors 'none'\r\n"),
              HasSubstr("X-Content-Type-Options: nosniff\r\n"),
              HasSubstr("Referrer-Policy: no-referrer\r\n"),
              HasSubstr("Cache-Control: no-store\r\n"), testing::Not(HasSubstr("unsafe-inline"))))
        << path;
  }
}

TEST_F(StatusPageTest, TakesHeadAndNoOtherMethod) {
  Start(/*guarded=*/false);
  for (const std::string path : {"/", "/api/status", "/page/app.js"}) {
    const std::string head =
        Ask(server_->address(), "HEAD " + path + " HTTP/1.1\r\nHost: test\r\n\r\n");
    EXPECT_THAT(head, AllOf(HasSubstr(" 200 "), testing::EndsWith("\r\n\r\n")));
    EXPECT_THAT(Ask(server_->address(),
                    "POST " + path + " HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"),
                AllOf(HasSubstr(" 405 "), HasSubstr("Allow: GET, HEAD\r\n")));
  }
}

TEST_F(StatusPageTest, AsksForATokenWhereCallersAreToldApart) {
  Start(/*guarded=*/true);
  for (const char* path : {"/", "/api/status", "/metrics", "/page/app.js", "/nothing"}) {
    EXPECT_THAT(Get(path), AllOf(StartsWith("HTTP/1.1 401 Unauthorized\r\n"),
                                 HasSubstr("WWW-Authenticate: Bearer realm=\"attnd\"\r\n"),
                                 HasSubstr("WWW-Authenticate: Basic realm=\"attnd\""),
                                 HasSubstr("no token\n")))
        << path;
  }
  EXPECT_THAT(Get("/metrics", "Authorization: Bearer wrong\r\n"), HasSubstr(" 401 "));
  EXPECT_THAT(Get("/metrics", "Authorization: Bearer of-a-tenant\r\n"), HasSubstr(" 403 "));
  EXPECT_THAT(Get("/metrics", "Authorization: Bearer a:secret\r\n"), HasSubstr("attnd_up 1"));
  // "any:a:secret", "any:wrong", "nocolon", and what is no base64.
  EXPECT_THAT(Get("/", "Authorization: Basic YW55OmE6c2VjcmV0\r\n"), HasSubstr(" 200 "));
  EXPECT_THAT(Get("/", "authorization: basic YW55OmE6c2VjcmV0\r\n"), HasSubstr(" 200 "));
  EXPECT_THAT(Get("/", "Authorization: Basic YW55Ondyb25n\r\n"), HasSubstr(" 401 "));
  EXPECT_THAT(Get("/", "Authorization: Basic bm9jb2xvbg==\r\n"), HasSubstr(" 401 "));
  EXPECT_THAT(Get("/", "Authorization: Basic !!!\r\n"), HasSubstr(" 401 "));
}

TEST_F(StatusPageTest, SaysWhetherItIsWellToAnybody) {
  Start(/*guarded=*/true);
  EXPECT_THAT(Get("/healthz"), HasSubstr(" 200 "));
  EXPECT_THAT(Get("/readyz"), HasSubstr(" 200 "));
}

TEST_F(HttpServerTest, SaysWhyItCannotStart) {
  const absl::Status in_use = HttpServer::Start(server_->address(), Handlers()).status();
  EXPECT_EQ(in_use.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(in_use.message()),
              AllOf(HasSubstr(server_->address()), HasSubstr("in use")));
  for (const char* address : {"", "7451", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http",
                              "127.0.0.1:65536", "127.0.0.1:-1"}) {
    EXPECT_EQ(HttpServer::Start(address, Handlers()).status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
  EXPECT_FALSE(HttpServer::Start("no.such.host.invalid:0", Handlers()).ok());
}

TEST_F(HttpServerTest, ServesSeveralClientsAtOnceAndStopsCleanly) {
  std::vector<std::thread> clients;
  clients.reserve(4);
  std::atomic<int> answered = 0;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      for (int j = 0; j < 20; ++j) {
        answered += Get(server_->address(), "/metrics").find("attnd_up 1") != std::string::npos;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered, 80);
  const std::string address = server_->address();
  server_.reset();
  EXPECT_EQ(Get(address, "/metrics"), "cannot connect");
}

}  // namespace
}  // namespace attnd
