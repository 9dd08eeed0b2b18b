// SPDX-License-Identifier: Apache-2.0
#include "client/cli/metrics_scrape.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <set>

namespace attnd::cli {
namespace {

// name="value" pairs between braces; values may hold escaped quotes.
std::map<std::string, std::string> ParseLabels(std::string_view text) {
  std::map<std::string, std::string> labels;
  size_t at = 0;
  while (at < text.size()) {
    const size_t equals = text.find("=\"", at);
    if (equals == std::string_view::npos) break;
    const std::string name(text.substr(at, equals - at));
    std::string value;
    for (at = equals + 2; at < text.size() && text[at] != '"'; ++at) {
      if (text[at] == '\\' && at + 1 < text.size()) ++at;
      value += text[at];
    }
    labels[name] = value;
    at += 2;  // the quote and the comma
  }
  return labels;
}

bool Includes(const std::map<std::string, std::string>& labels,
              const std::map<std::string, std::string>& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&labels](const auto& want) {
    const auto found = labels.find(want.first);
    return found != labels.end() && found->second == want.second;
  });
}

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

absl::Status Unreachable(const std::string& address, const std::string& why) {
  return absl::UnavailableError("no metrics at " + address + ": " + why);
}

int ConnectTo(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return -1;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    const int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd < 0) continue;
    const timeval timeout{.tv_sec = 2, .tv_usec = 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    if (connect(fd, at->ai_addr, at->ai_addrlen) == 0) return fd;
    close(fd);
  }
  return -1;
}

}  // namespace

MetricSamples MetricSamples::Parse(std::string_view text) {
  MetricSamples result;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    const size_t brace = line.find('{');
    const size_t close = line.rfind('}');
    const size_t name_end = std::min(brace, line.find(' '));
    if (name_end == std::string_view::npos) continue;
    MetricSample sample{.name = std::string(line.substr(0, name_end)), .labels = {}};
    size_t value_at = name_end;
    if (brace == name_end && close != std::string_view::npos) {
      sample.labels = ParseLabels(line.substr(brace + 1, close - brace - 1));
      value_at = close + 1;
    }
    sample.value = std::strtod(std::string(line.substr(value_at)).c_str(), nullptr);
    result.samples_.push_back(std::move(sample));
  }
  return result;
}

double MetricSamples::Sum(std::string_view name,
                          const std::map<std::string, std::string>& labels) const {
  double sum = 0;
  for (const MetricSample& sample : samples_) {
    if (sample.name == name && Includes(sample.labels, labels)) sum += sample.value;
  }
  return sum;
}

bool MetricSamples::Has(std::string_view name) const {
  return std::any_of(samples_.begin(), samples_.end(),
                     [name](const MetricSample& sample) { return sample.name == name; });
}

std::vector<std::string> MetricSamples::LabelValues(std::string_view name,
                                                    const std::string& label) const {
  std::set<std::string> values;
  for (const MetricSample& sample : samples_) {
    const auto found = sample.labels.find(label);
    if (sample.name == name && found != sample.labels.end()) values.insert(found->second);
  }
  return {values.begin(), values.end()};
}

std::map<double, double> MetricSamples::Buckets(
    std::string_view histogram, const std::map<std::string, std::string>& labels) const {
  const std::string name = std::string(histogram) + "_bucket";
  std::map<double, double> buckets;
  for (const MetricSample& sample : samples_) {
    const auto bound = sample.labels.find("le");
    if (sample.name != name || bound == sample.labels.end()) continue;
    if (!Includes(sample.labels, labels)) continue;
    buckets[std::strtod(bound->second.c_str(), nullptr)] += sample.value;  // "+Inf" too
  }
  return buckets;
}

double HistogramQuantile(const std::map<double, double>& before,
                         const std::map<double, double>& after, double p) {
  const auto counted = [&before](double bound, double count) {
    const auto found = before.find(bound);
    return count - (found == before.end() ? 0.0 : found->second);
  };
  if (after.empty()) return std::numeric_limits<double>::quiet_NaN();
  const double total = counted(after.rbegin()->first, after.rbegin()->second);
  if (total <= 0) return std::numeric_limits<double>::quiet_NaN();
  double lower = 0, below = 0;
  for (const auto& [bound, count] : after) {
    const double cumulative = counted(bound, count);
    if (cumulative >= p * total) {
      if (std::isinf(bound)) return lower;
      const double within = cumulative > below ? (p * total - below) / (cumulative - below) : 1.0;
      return lower + (bound - lower) * within;
    }
    lower = bound;
    below = cumulative;
  }
  return lower;
}

absl::StatusOr<MetricSamples> ScrapeMetrics(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError("metrics address '" + address + "' is not host:port");
  }
  const Socket socket(ConnectTo(address.substr(0, colon), address.substr(colon + 1)));
  if (socket.fd() < 0) return Unreachable(address, std::strerror(errno));
  const std::string request =
      "GET /metrics HTTP/1.0\r\nHost: " + address + "\r\nAccept: text/plain\r\n\r\n";
  if (send(socket.fd(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return Unreachable(address, std::strerror(errno));
  }
  std::string response;
  char chunk[16384];
  while (true) {
    const ssize_t size = recv(socket.fd(), chunk, sizeof(chunk), 0);
    if (size < 0) return Unreachable(address, std::strerror(errno));
    if (size == 0) break;
    response.append(chunk, static_cast<size_t>(size));
  }
  const size_t body = response.find("\r\n\r\n");
  if (body == std::string::npos || response.find(" 200 ") > response.find("\r\n")) {
    return Unreachable(address, "it answers " + response.substr(0, response.find("\r\n")));
  }
  return MetricSamples::Parse(std::string_view(response).substr(body + 4));
}

}  // namespace attnd::cli
