// SPDX-License-Identifier: Apache-2.0
#include "server/observe/http_server.h"

#include <civetweb.h>

#include <chrono>
#include <cstdint>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/mutex.h"
#include "server/observe/page_assets.h"

namespace attnd {
namespace {

constexpr char kPlainText[] = "text/plain; charset=utf-8";
constexpr char kExposition[] = "text/plain; version=0.0.4; charset=utf-8";
constexpr char kJson[] = "application/json; charset=utf-8";

// Of every answer. A page of this server loads nothing from elsewhere, runs no script but its own,
// sends no form and cannot be framed; and no answer is taken for another type than it says.
constexpr char kSecurityHeaders[] =
    "Cache-Control: no-store\r\n"
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n";

struct Response {
  int code = 200;
  const char* type = kPlainText;
  std::string body;
};

Response FromStatus(const absl::Status& status) {
  if (status.ok()) return {.body = "ok\n"};
  return {.code = 503, .body = absl::StrCat(status.message(), "\n")};
}

const char* Reason(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

const char* TypeOf(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  return "application/octet-stream";
}

// Basic is what a browser asks its user for: the token is the password, the name may be any.
std::optional<std::string> AsBearer(const char* header) {
  if (header == nullptr) return std::nullopt;
  absl::string_view credentials = header;
  std::string name_and_password;
  if (!absl::StartsWithIgnoreCase(credentials, "Basic ") ||
      !absl::Base64Unescape(credentials.substr(6), &name_and_password)) {
    return std::string(header);
  }
  const size_t colon = name_and_password.find(':');
  return absl::StrCat("Bearer ",
                      colon == std::string::npos ? "" : name_and_password.substr(colon + 1));
}

Response Answer(const HttpServer::Handlers& handlers, std::string_view method,
                std::string_view path, const char* authorization) {
  if (method != "GET" && method != "HEAD") return {.code = 405, .body = "GET or HEAD\n"};
  if (path == "/healthz") return FromStatus(handlers.live());
  if (path == "/readyz") return FromStatus(handlers.ready());
  if (handlers.authorize) {
    const absl::Status status = handlers.authorize(AsBearer(authorization));
    if (!status.ok()) {
      return {.code = absl::IsPermissionDenied(status) ? 403 : 401,
              .body = absl::StrCat(status.message(), "\n")};
    }
  }
  if (path == "/metrics") return {.type = kExposition, .body = handlers.metrics()};
  if (handlers.status) {
    if (path == "/api/status") return {.type = kJson, .body = handlers.status()};
    constexpr std::string_view kPage = "/page/";
    const std::string_view name = path == "/"               ? "index.html"
                                  : path.starts_with(kPage) ? path.substr(kPage.size())
                                                            : std::string_view();
    if (const PageAsset* asset = FindPageAsset(name)) {
      return {.type = TypeOf(name), .body = std::string(asset->content)};
    }
  }
  return {.code = 404, .body = "there are /, /api/status, /metrics, /healthz and /readyz\n"};
}

// What civetweb hands back to its callbacks.
struct Context {
  HttpServer::Handlers handlers;
  // Civetweb says why it could not start only by logging, from the thread that starts it. Messages
  // of its other threads, about clients that went away, are dropped.
  std::thread::id starter = std::this_thread::get_id();
  std::string log = {};
};

int OnLog(const mg_connection* connection, const char* message) {
  auto* context = static_cast<Context*>(mg_get_user_data(mg_get_context(connection)));
  if (context != nullptr && context->starter == std::this_thread::get_id()) {
    absl::StrAppend(&context->log, context->log.empty() ? "" : "; ", message);
  }
  return 1;
}

int OnRequest(mg_connection* connection, void* user_data) {
  const auto* context = static_cast<const Context*>(user_data);
  const mg_request_info* info = mg_get_request_info(connection);
  const std::string_view method = info->request_method;
  const Response response = Answer(context->handlers, method, info->local_uri,
                                   mg_get_header(connection, "Authorization"));
  mg_printf(connection,
            "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s%s%s"
            "Connection: close\r\n\r\n",
            response.code, Reason(response.code), response.type, response.body.size(),
            kSecurityHeaders, response.code == 405 ? "Allow: GET, HEAD\r\n" : "",
            response.code == 401 ? "WWW-Authenticate: Bearer realm=\"attnd\"\r\n"
                                   "WWW-Authenticate: Basic realm=\"attnd\", charset=\"UTF-8\"\r\n"
                                 : "");
  if (method != "HEAD") mg_write(connection, response.body.data(), response.body.size());
  return response.code;
}

}  // namespace

class HttpServer::Impl {
 public:
  explicit Impl(Handlers handlers) : context_{.handlers = std::move(handlers)} {
    mg_init_library(0);
  }
  ~Impl() {
    if (server_ != nullptr) Stop();
    mg_exit_library();
  }

  absl::Status Start(const std::string& address) {
    const size_t colon = address.rfind(':');
    uint32_t port = 0;
    if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
        port > 65535) {
      return absl::InvalidArgumentError(absl::StrCat("\"", address, "\" is not host:port"));
    }
    const char* options[] = {"listening_ports",    address.c_str(), "num_threads", "2",
                             "request_timeout_ms", "5000",          nullptr};
    mg_callbacks callbacks{};
    callbacks.log_message = OnLog;
    server_ = mg_start(&callbacks, &context_, options);
    mg_server_port bound{};
    if (server_ == nullptr || mg_get_server_ports(server_, 1, &bound) != 1) {
      return absl::UnavailableError(
          absl::StrCat("cannot serve HTTP on ", address, ": ", context_.log));
    }
    mg_set_request_handler(server_, "/", OnRequest, &context_);
    host_ = address.substr(0, colon);
    port_ = bound.port;
    address_ = absl::StrCat(host_, ":", port_);
    return absl::OkStatus();
  }

  const std::string& address() const { return address_; }

 private:
  // Civetweb's accepting thread looks only every two seconds whether it is to stop, or when
  // somebody connects: so connect.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_) {
    std::thread stopper([this] {
      mg_stop(server_);
      MutexLock lock(mu_);
      stopped_ = true;
      stopped_changed_.Signal();
    });
    const bool bracketed = host_.size() > 2 && host_.front() == '[';
    const std::string host = bracketed ? host_.substr(1, host_.size() - 2) : host_;
    for (bool stopped = false; !stopped;) {
      char error[128];
      mg_connection* nudge = mg_connect_client(host.c_str(), port_, 0, error, sizeof(error));
      if (nudge != nullptr) mg_close_connection(nudge);
      MutexLock lock(mu_);
      if (!stopped_) {
        stopped_changed_.WaitUntil(mu_, Clock::Real().Now() + std::chrono::milliseconds(10));
      }
      stopped = stopped_;
    }
    stopper.join();
  }

  Context context_;
  std::string host_;
  int port_ = 0;
  std::string address_;
  Mutex mu_;
  CondVar stopped_changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  mg_context* server_ = nullptr;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              Handlers handlers) {
  auto impl = std::make_unique<Impl>(std::move(handlers));
  if (absl::Status status = impl->Start(address); !status.ok()) return status;
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

const std::string& HttpServer::address() const { return impl_->address(); }

}  // namespace attnd
