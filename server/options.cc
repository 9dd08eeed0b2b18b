// SPDX-License-Identifier: Apache-2.0
#include "server/options.h"

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <concepts>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/geometry.h"
#include "server/observe/catalog.h"
#include "server/observe/log.h"
#include "server/option_text.h"
#include "server/rpc/listen_address.h"

namespace attnd {
namespace {

using Values = std::vector<std::string>;

constexpr Bytes kKiB(1 << 10), kMiB(1 << 20), kGiB(1 << 30), kTiB(uint64_t{1} << 40);
constexpr Duration kYear = std::chrono::hours(24 * 365);

template <typename T>
struct Range {
  T least, most;
  bool or_zero = false;  // which then has a meaning of its own

  // False for a value that is not a number.
  bool Holds(T value) const {
    return (or_zero && value == T{}) || (least <= value && value <= most);
  }
};

Values Names(std::span<const absl::string_view> names) { return {names.begin(), names.end()}; }

// Every option, once: name, member, allowed range or values, help. Parsing, printing, validation
// and
// `--help` are visitors of this list.
template <typename SomeOptions, typename Visitor>
void VisitOptions(SomeOptions& o, Visitor& v) {
  constexpr auto kCount = std::numeric_limits<int32_t>::max();
  using Int = Range<int64_t>;

  v.Group("Where to serve");
  v.List("listen", o.listen,
         "Address to serve on, \"host:port\" or \"unix:/path\"; repeatable. "
         "Port 0 takes a free one");
  v.Text("metrics_listen", o.metrics_listen, {},
         "Address of the Prometheus metrics and /healthz; empty: off");
  v.Text("ready_file", o.ready_file, {},
         "File to write once serving, as JSON: {\"listen\": [...], \"metrics\": ..., \"pid\": n}");
  v.Flag("reflection", o.reflection,
         "Serve gRPC reflection on loopback and Unix sockets; --no_reflection turns it off");

  v.Group("Security");
  v.Text("tls_cert", o.tls_cert, {},
         "Certificate chain, PEM: every TCP listener speaks TLS. Read again when it changes");
  v.Text("tls_key", o.tls_key, {}, "Its private key, PEM, not readable by others");
  v.Text("tls_client_ca", o.tls_client_ca, {},
         "Certificates, PEM: clients need one that these have signed");
  v.Text("tenants_file", o.tenants_file, {},
         "Tenants with their bearer tokens and limits, YAML, not readable by others. Read again "
         "when it changes");
  v.Flag("insecure", o.insecure,
         "Allow --listen on addresses other than loopback in plain text, without TLS");
  v.Flag("insecure_metrics", o.insecure_metrics,
         "Allow --metrics_listen on addresses other than loopback, which is plain text always");

  v.Group("Device and memory");
  v.Text("backend", o.backend, {"auto", "cpu", "hip"},
         "Where attention runs (auto: on a GPU where there is one)");
  v.Text("hip_plugin", o.hip_plugin, {},
         "The GPU plugin; empty: libattnd_hip.so beside the program or in ../lib/attnd");
  v.Number("num_threads", o.num_threads, Range<int>{0, 1024},
           "Threads of the CPU backend; 0: as many as the machine has");
  v.Number("gpu_memory_fraction", o.gpu_memory_fraction, Range<double>{0.05, 0.98},
           "Share of each GPU's memory for keys and values, reserved at start");
  v.Number("pool_bytes", o.pool_bytes,
           Range<Bytes>{kSuperblockBytes, Bytes(64 * kTiB.value()), /*or_zero=*/true},
           "Memory of each device for keys and values, reserved at start; 0: 1GiB on the CPU, "
           "gpu_memory_fraction on GPUs");
  v.Number("max_staging_bytes", o.max_staging_bytes, Range<Bytes>{kMiB, Bytes(64 * kTiB.value())},
           "Most host memory for tensors between the network and the kernels");

  v.Group("Requests");
  v.Number("max_tensor_bytes", o.max_tensor_bytes,
           Range<Bytes>{Bytes(64 * kKiB.value()), Bytes(512 * kMiB.value())},
           "The largest tensor of a request; three of them and a header fit into a message");
  v.Number("max_items_per_request", o.max_items_per_request, Int{1, 1 << 20},
           "Most items of one request");
  v.Number("max_tokens_per_request", o.max_tokens_per_request, Int{1, kCount},
           "Most query tokens of one request, summed over its items");
  v.Number("max_stream_requests", o.max_stream_requests, Int{1, 1 << 16},
           "Most requests in flight on one AttendStream");
  v.Number("max_queued_requests", o.max_queued_requests, Int{1, kCount},
           "Most requests in the daemon; beyond them UNAVAILABLE");
  v.Number("max_queued_items", o.max_queued_items, Int{1, kCount}, "Most items in the daemon");
  v.Number("max_queued_tokens", o.max_queued_tokens, Int{1, kCount},
           "Most query tokens in the daemon");
  v.Number("max_batch_items", o.max_batch_items, Int{1, 1 << 20}, "Most items of one launch");
  v.Number("max_batch_tokens", o.max_batch_tokens, Int{1, kCount},
           "Most query tokens of one launch; a larger item is launched alone");
  v.Number("max_linger", o.max_linger, Range<Duration>{Duration::zero(), std::chrono::seconds(10)},
           "How long an item may wait for others to share its launch");

  v.Group("Sessions and life");
  v.Number("default_lease", o.default_lease, Range<Duration>{std::chrono::milliseconds(1), kYear},
           "Lease of a session that asks for none");
  v.Number("max_lease", o.max_lease, Range<Duration>{std::chrono::milliseconds(1), kYear},
           "The longest lease that is granted");
  v.Number("drain_timeout", o.drain_timeout, Range<Duration>{Duration::zero(), kYear},
           "How long SIGTERM waits for admitted work");
  v.Flag("exit_with_stdin", o.exit_with_stdin,
         "Take the end of standard input for a SIGTERM: whoever holds the other end of the pipe "
         "takes the daemon along, however it dies");
  v.Number("integrity_check_interval", o.integrity_check_interval,
           Range<Duration>{Duration::zero(), kYear},
           "How often an idle cache is checked; 0: never");
  v.Text("log_level", o.log_level, Names(kLogLevelNames), "What is logged to standard error");
  v.Text("log_format", o.log_format, Names(kLogFormatNames),
         "How it is logged (json: one object a line)");
}

bool Parse(absl::string_view text, Bytes& value) {
  const std::optional<Bytes> bytes = ParseBytes(text);
  if (bytes) value = *bytes;
  return bytes.has_value();
}
bool Parse(absl::string_view text, Duration& value) {
  const std::optional<Duration> duration = ParseDuration(text);
  if (duration) value = *duration;
  return duration.has_value();
}
template <typename Number>
requires std::is_arithmetic_v<Number>
bool Parse(absl::string_view text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string Format(Bytes value) { return FormatBytes(value); }
std::string Format(Duration value) { return FormatDuration(value); }
std::string Format(std::integral auto value) { return absl::StrCat(value); }
std::string Format(double value) { return absl::StrCat(value); }
std::string Quoted(absl::string_view value) { return absl::StrCat("\"", value, "\""); }

template <typename T>
std::string ExpectedRange(const Range<T>& range) {
  return absl::StrCat("expected ", Format(range.least), " to ", Format(range.most),
                      range.or_zero ? ", or 0" : "");
}

absl::string_view TypeName(Bytes) { return "BYTES"; }
absl::string_view TypeName(Duration) { return "TIME"; }
absl::string_view TypeName(std::integral auto) { return "NUMBER"; }
absl::string_view TypeName(double) { return "NUMBER"; }

// Declares options to the command line's parser.
class Declare {
 public:
  explicit Declare(CLI::App& app) : app_(app) {}

  void Group(absl::string_view name) { group_ = std::string(name); }

  template <typename T>
  void Number(const std::string& name, T& value, const Range<T>& range, const std::string& help) {
    const std::string flag = "--" + name;
    app_.add_option_function<std::string>(
            flag,
            [&value, flag, range](const std::string& text) {
              if (!Parse(text, value)) {
                throw CLI::ValidationError(
                    flag, absl::StrCat("\"", text, "\" is not a ", Kind(value), ", ",
                                       ExpectedRange(range)));
              }
            },
            help)
        ->take_last()
        ->type_name(std::string(TypeName(value)))
        ->default_str(Format(value))
        ->group(group_);
  }
  void Text(const std::string& name, std::string& value, const Values& allowed,
            const std::string& help) {
    app_.add_option("--" + name, value,
                    allowed.empty() ? help : absl::StrCat(help, ": ", absl::StrJoin(allowed, ", ")))
        ->take_last()
        ->type_name("TEXT")
        ->default_str(Quoted(value))
        ->group(group_);
  }
  void List(const std::string& name, Values& value, const std::string& help) {
    app_.add_option("--" + name, value, help)
        ->allow_extra_args(false)
        ->type_name("TEXT")
        ->default_str(absl::StrJoin(value, " "))
        ->group(group_);
  }
  void Flag(const std::string& name, bool& value, const std::string& help) {
    app_.add_flag(absl::StrCat("--", name, ",!--no_", name), value, help)->group(group_);
  }

 private:
  static absl::string_view Kind(Bytes) { return "size (as in 512MiB)"; }
  static absl::string_view Kind(Duration) { return "time (as in 30s)"; }
  static absl::string_view Kind(std::integral auto) { return "whole number"; }
  static absl::string_view Kind(double) { return "number"; }

  CLI::App& app_;
  std::string group_;
};

// One "name = value" a line, as the config file takes it.
class Print {
 public:
  void Group(absl::string_view) {}
  template <typename T>
  void Number(absl::string_view name, const T& value, const Range<T>&, absl::string_view) {
    absl::StrAppend(&text, name, " = ", Format(value), "\n");
  }
  void Text(absl::string_view name, const std::string& value, const Values&, absl::string_view) {
    absl::StrAppend(&text, name, " = ", Quoted(value), "\n");
  }
  void List(absl::string_view name, const Values& values, absl::string_view) {
    absl::StrAppend(&text, name, " = [",
                    absl::StrJoin(values, ", ",
                                  [](std::string* out, const std::string& value) {
                                    absl::StrAppend(out, Quoted(value));
                                  }),
                    "]\n");
  }
  void Flag(absl::string_view name, bool value, absl::string_view) {
    absl::StrAppend(&text, name, " = ", value ? "true" : "false", "\n");
  }

  std::string text;
};

class Check {
 public:
  void Group(absl::string_view) {}
  template <typename T>
  void Number(absl::string_view name, const T& value, const Range<T>& range, absl::string_view) {
    if (!range.Holds(value)) {
      Fail(name, Format(value), ExpectedRange(range));
    }
  }
  void Text(absl::string_view name, const std::string& value, const Values& allowed,
            absl::string_view) {
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
      Fail(name, Quoted(value), absl::StrCat("expected one of ", absl::StrJoin(allowed, ", ")));
    }
  }
  void List(absl::string_view name, const Values& values, absl::string_view) {
    if (values.empty()) Fail(name, "(none)", "expected at least one");
  }
  void Flag(absl::string_view, bool, absl::string_view) {}

  void Fail(absl::string_view name, absl::string_view value, absl::string_view expected) {
    status.Update(absl::InvalidArgumentError(absl::StrCat("--", name, " ", value, ": ", expected)));
  }

  absl::Status status;
};

// Files are looked into when the daemon starts (security/certificates.h).
absl::Status CheckTls(const Options& options) {
  const auto missing = [](absl::string_view given, absl::string_view value,
                          absl::string_view other) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", given, " \"", value, "\": needs --", other, ", too"));
  };
  if (!options.tls_cert.empty() && options.tls_key.empty()) {
    return missing("tls_cert", options.tls_cert, "tls_key");
  }
  if (!options.tls_key.empty() && options.tls_cert.empty()) {
    return missing("tls_key", options.tls_key, "tls_cert");
  }
  if (!options.tls_client_ca.empty() && options.tls_cert.empty()) {
    return missing("tls_client_ca", options.tls_client_ca, "tls_cert");
  }
  return absl::OkStatus();
}

constexpr absl::string_view kPlainTextMetrics =
    "metrics are plain text; --insecure_metrics allows it where the network itself is trusted";

absl::Status CheckAddresses(const Options& options) {
  const auto check = [&](absl::string_view flag, const std::string& text,
                         bool insecure) -> absl::Status {
    absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
    absl::Status status = address.status();
    if (status.ok()) {
      status = CheckPlainTextAllowed(*address, insecure,
                                     flag == "listen" ? kPlainTextListen : kPlainTextMetrics);
    }
    if (status.ok() && flag == "metrics_listen" && address->is_unix) {
      status = absl::InvalidArgumentError("metrics are served on \"host:port\" only");
    }
    if (status.ok()) return status;
    return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", status.message()));
  };
  for (const std::string& address : options.listen) {
    ATTND_RETURN_IF_ERROR(check("listen", address, options.insecure || !options.tls_cert.empty()));
  }
  if (options.metrics_listen.empty()) return absl::OkStatus();
  return check("metrics_listen", options.metrics_listen, options.insecure_metrics);
}

// A message for whoever misspelt `name`, given without its dashes.
std::string UnknownOption(const CLI::App& app, absl::string_view name, absl::string_view shown) {
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& long_name : option->get_lnames()) known.push_back(long_name);
  }
  const absl::string_view closest = ClosestName(name.substr(0, name.find('=')), known);
  return absl::StrCat("unknown option ", shown,
                      closest.empty() ? "; --help lists them all"
                                      : absl::StrCat("; did you mean --", closest, "?"));
}

// The arguments in the order that CLI11 takes them, last first. It reads "--name=" as a flag whose
// value is the next argument; here it has an empty one.
std::vector<std::string> Arguments(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    const absl::string_view argument = argv[i];
    if (absl::StartsWith(argument, "--") && argument.find('=') + 1 == argument.size()) {
      arguments.emplace_back();
      arguments.emplace_back(argument.substr(0, argument.size() - 1));
    } else {
      arguments.emplace_back(argument);
    }
  }
  return arguments;
}

ParsedOptions Exit(int code, std::string message) {
  return {.options = {}, .exit_code = code, .message = std::move(message)};
}

}  // namespace

const char* Version() { return ATTND_VERSION; }

Bytes Options::max_message_bytes() const {
  // The header's own limit (wire.h) and room for what frames it.
  constexpr uint64_t kHeaderBytes = 16u << 20;
  return Bytes(3 * max_tensor_bytes.value() + kHeaderBytes);
}

Bytes Options::PoolBytes(Bytes device_memory, bool host) const {
  uint64_t bytes = pool_bytes.value();
  if (bytes == 0) {
    bytes = host ? kGiB.value()
                 : static_cast<uint64_t>(gpu_memory_fraction *
                                         static_cast<double>(device_memory.value()));
  }
  return Bytes(bytes / kSuperblockBytes.value() * kSuperblockBytes.value());
}

absl::Status Options::Validate() const {
  Check check;
  VisitOptions(*this, check);
  ATTND_RETURN_IF_ERROR(check.status);
  if (max_lease < default_lease) {
    return absl::InvalidArgumentError(absl::StrCat("--default_lease ", Format(default_lease),
                                                   ": exceeds --max_lease ", Format(max_lease)));
  }
  ATTND_RETURN_IF_ERROR(CheckTls(*this));
  return CheckAddresses(*this);
}

std::string Options::ToString() const {
  Print print;
  VisitOptions(*this, print);
  return print.text;
}

ParsedOptions ParseOptions(int argc, const char* const* argv) {
  ParsedOptions parsed;
  CLI::App app("attnd, the attention backend daemon: serves attention over a paged KV cache.",
               "attnd");
  bool check_config = false, print_metrics = false;
  app.set_version_flag("--version", absl::StrCat("attnd ", Version()));
  app.set_config("--config", "", "Read options from FILE, one \"name = value\" a line; flags win")
      ->type_name("FILE");
  app.add_flag("--check_config", check_config, "Check the options, print them and exit");
  app.add_flag("--print_metrics", print_metrics,
               "Print every metric with its type, labels and help as JSON and exit");
  app.allow_extras();
  app.allow_config_extras(CLI::config_extras_mode::error);
  Declare declare(app);
  VisitOptions(parsed.options, declare);
  try {
    app.parse(Arguments(argc, argv));
  } catch (const CLI::CallForHelp&) {
    return Exit(0, app.help());
  } catch (const CLI::CallForVersion& version) {
    return Exit(0, absl::StrCat(version.what(), "\n"));
  } catch (const CLI::ConfigError& error) {
    absl::string_view name = error.what();
    if (!absl::ConsumePrefix(&name, "INI was not able to parse ")) {
      return Exit(kExitUsage, absl::StrCat("attnd: config file: ", error.what(), "\n"));
    }
    return Exit(kExitUsage,
                absl::StrCat("attnd: config file: ", UnknownOption(app, name, Quoted(name)), "\n"));
  } catch (const CLI::Error& error) {
    return Exit(kExitUsage, absl::StrCat("attnd: ", error.what(), "\n"));
  }
  for (const std::string& extra : app.remaining()) {
    absl::string_view name = extra;
    const bool is_flag = absl::ConsumePrefix(&name, "--");
    return Exit(kExitUsage, absl::StrCat("attnd: ",
                                         is_flag ? UnknownOption(app, name, extra)
                                                 : absl::StrCat("unexpected argument \"", extra,
                                                                "\"; options start with --"),
                                         "\n"));
  }
  if (print_metrics) return Exit(0, MetricCatalogJson());
  if (absl::Status status = parsed.options.Validate(); !status.ok()) {
    return Exit(kExitUsage, absl::StrCat("attnd: ", status.message(), "\n"));
  }
  if (check_config) return Exit(0, parsed.options.ToString());
  return parsed;
}

}  // namespace attnd
