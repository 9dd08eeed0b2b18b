// SPDX-License-Identifier: Apache-2.0
//
// The daemon's HTTP port: for Prometheus, for whoever asks whether the daemon is well, and for a
// person's browser.
//
//   GET /metrics     200, the text exposition format
//   GET /healthz     liveness: 200 "ok", or 503 and why the process should be restarted
//   GET /readyz      readiness: 200 "ok", or 503 and why it should get no new work (starting,
//                    draining)
//   GET /            the status page, and under /page/ what it is made of
//   GET /api/status  what the page shows, JSON (status_json.h)
//
// HEAD gives the headers alone, any other method is 405. Browsers are told to run nothing that is
// not of this server. Handlers run on the server's two threads, several at a time. The destructor
// waits for them.
//
//   absl::StatusOr<std::unique_ptr<HttpServer>> http =
//       HttpServer::Start("127.0.0.1:0", {.metrics = ..., .live = ..., .ready = ...});
//   (*http)->address();   // "127.0.0.1:43212"
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace attnd {

class HttpServer {
 public:
  struct Handlers {
    std::function<std::string()> metrics;
    std::function<absl::Status()> live;
    std::function<absl::Status()> ready;
    // The status page's JSON. Without it there is no page.
    std::function<std::string()> status = {};
    // Who may see more than /healthz and /readyz: given the request's Authorization header, as
    // "Bearer TOKEN" also where it was Basic with the token as password, which is what browsers
    // send. PERMISSION_DENIED is 403, any other error 401. Without it everybody may.
    std::function<absl::Status(std::optional<std::string_view> authorization)> authorize = {};
  };

  // `address` is "host:port" with a numeric host ("[::1]:7451" for IPv6); port 0 takes a free one.
  // INVALID_ARGUMENT for an address that is none; UNAVAILABLE where it cannot be bound, with the
  // reason.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           Handlers handlers);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // The host as given and the port that was bound.
  const std::string& address() const;

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace attnd
