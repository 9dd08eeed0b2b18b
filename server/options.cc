// SPDX-License-Identifier: Apache-2.0
#include "server/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/geometry.h"
#include "server/base/option_text.h"
#include "server/config_file.h"
#include "server/observe/catalog.h"
#include "server/observe/log.h"
#include "server/option_visitors.h"
#include "server/preflight.h"
#include "server/rpc/listen_address.h"

namespace attnd {
namespace {

constexpr Bytes kKiB(1 << 10), kMiB(1 << 20), kGiB(1 << 30), kTiB(uint64_t{1} << 40);
constexpr Duration kYear = std::chrono::hours(24 * 365);

Values Names(std::span<const absl::string_view> names) { return {names.begin(), names.end()}; }

// Every option, once: name, member, allowed range or values, help. Parsing, printing, validation
// and `--help` are visitors of this list (option_visitors.h).
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
              // Its range is Validate's matter, which shows the value as it was understood.
              if (!ParseOption(text, value)) {
                throw CLI::ValidationError(
                    flag, absl::StrCat("\"", text, "\" is not a ", KindText(value), ", expected ",
                                       RangeText(range)));
              }
            },
            help)
        ->take_last()
        ->type_name(std::string(TypeName(value)))
        ->default_str(FormatOption(value))
        ->group(group_);
  }
  void Text(const std::string& name, std::string& value, const Values& allowed,
            const std::string& help) {
    app_.add_option("--" + name, value,
                    allowed.empty() ? help : absl::StrCat(help, ": ", absl::StrJoin(allowed, ", ")))
        ->take_last()
        ->type_name("TEXT")
        ->default_str(QuotedValue(value))
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
  CLI::App& app_;
  std::string group_;
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
std::string UnknownOption(absl::string_view name, absl::string_view shown, const Values& known) {
  const absl::string_view closest = ClosestName(name, known);
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

ParsedOptions Bad(absl::string_view what) {
  return Exit(kExitUsage, absl::StrCat("attnd: ", what, "\n"));
}

// What the command line says beside the options' values.
struct CommandLine {
  std::string config;
  bool check_config = false;
  bool print_config = false, print_metrics = false;
  std::set<std::string, std::less<>> given;  // options by name
};

// Puts the flags' values over what is in `options`; an outcome where that is the end.
std::optional<ParsedOptions> ParseCommandLine(int argc, const char* const* argv, Options& options,
                                              CommandLine& line) {
  CLI::App app("attnd, the attention backend daemon: serves attention over a paged KV cache.",
               "attnd");
  app.set_version_flag("--version", absl::StrCat("attnd ", Version()));
  app.add_option("--config", line.config,
                 "Read options from FILE, one \"name = value\" a line; flags win")
      ->type_name("FILE");
  app.add_flag("--check_config", line.check_config,
               "Check the options and the files that they name, print them and exit");
  app.add_flag("--print_config", line.print_config,
               "Print a config file with every option, its help and its default, and exit");
  app.add_flag("--print_metrics", line.print_metrics,
               "Print every metric with its type, labels and help as JSON and exit");
  app.allow_extras();
  Declare declare(app);
  VisitOptions(options, declare);
  try {
    app.parse(Arguments(argc, argv));
  } catch (const CLI::CallForHelp&) {
    return Exit(0, app.help());
  } catch (const CLI::CallForVersion& version) {
    return Exit(0, absl::StrCat(version.what(), "\n"));
  } catch (const CLI::Error& error) {
    return Bad(error.what());
  }
  Values known;
  for (const CLI::Option* option : app.get_options()) {
    const Values& names = option->get_lnames();
    known.insert(known.end(), names.begin(), names.end());
    if (option->count() > 0) line.given.insert(names.begin(), names.end());
  }
  for (const std::string& extra : app.remaining()) {
    absl::string_view name = extra;
    if (absl::ConsumePrefix(&name, "--")) {
      return Bad(UnknownOption(name.substr(0, name.find('=')), extra, known));
    }
    return Bad(absl::StrCat("unexpected argument \"", extra, "\"; options start with --"));
  }
  return std::nullopt;
}

// Where the config file sets which option.
using Places = std::map<std::string, std::string, std::less<>>;

// What is wrong with a line that names no option.
std::string UnknownKey(const ConfigEntry& entry, const Values& known) {
  const std::string shown = ShownValue(entry.key);
  if (entry.key == "config" || entry.key == "check_config" || entry.key == "print_config" ||
      entry.key == "print_metrics" || entry.key == "help" || entry.key == "version") {
    return absl::StrCat(shown, " is for the command line alone");
  }
  // As it may be written elsewhere: --no-reflection, Pool-Bytes.
  absl::string_view stripped = entry.key;
  while (absl::ConsumePrefix(&stripped, "-")) {
  }
  std::string name = absl::StrReplaceAll(absl::AsciiStrToLower(stripped), {{"-", "_"}});
  if (absl::string_view positive = name; absl::ConsumePrefix(&positive, "no_") &&
                                         std::count(known.begin(), known.end(), positive) > 0) {
    return absl::StrCat("unknown option ", shown, "; expected ", positive, " = false");
  }
  const absl::string_view closest = ClosestName(name, known);
  return absl::StrCat("unknown option ", shown,
                      closest.empty() ? "; `attnd --print_config` lists them all"
                                      : absl::StrCat("; did you mean ", closest, "?"));
}

std::optional<ParsedOptions> ApplyConfig(const std::string& path, Options& options,
                                         Places& places) {
  constexpr size_t kMostErrors = 20;  // enough to mend a file, too few to fill a screen
  const absl::StatusOr<std::string> text = ReadConfigFile(path);
  if (!text.ok()) return Bad(text.status().message());
  ConfigText config = ParseConfig(*text);
  for (const ConfigEntry& entry : config.entries) {
    SetOption set(entry);
    VisitOptions(options, set);
    places[entry.key] = absl::StrCat(path, ":", entry.line);
    if (!set.found) set.wrong = UnknownKey(entry, set.names);
    if (set.wrong.empty()) continue;
    const std::string value =
        entry.is_list ? QuotedList(entry.values) : ShownValue(entry.values[0]);
    config.errors.push_back(
        {.line = entry.line,
         .what = set.found ? absl::StrCat(entry.key, " = ", value, ": ", set.wrong) : set.wrong});
  }
  if (config.errors.empty()) return std::nullopt;
  std::stable_sort(config.errors.begin(), config.errors.end(),
                   [](const ConfigError& a, const ConfigError& b) { return a.line < b.line; });
  Values messages;
  for (const ConfigError& error : config.errors) {
    messages.push_back(absl::StrCat(path, ":", error.line, ": ", error.what));
  }
  if (messages.size() > kMostErrors) {
    const size_t more = messages.size() - kMostErrors;
    messages.resize(kMostErrors);
    messages.push_back(absl::StrCat(path, ": and ", more, " errors more"));
  }
  return Bad(absl::StrJoin(messages, "\nattnd: "));
}

// `message` names options as flags; this says which of them stand in the config file, and where.
std::string WithPlaces(absl::string_view message, const Places& places,
                       const std::set<std::string, std::less<>>& given) {
  std::string text(message);
  for (const auto& [name, place] : places) {
    const size_t at = message.find(absl::StrCat("--", name));
    const size_t end = at + 2 + name.size();
    if (at == absl::string_view::npos || given.contains(name)) continue;
    if (end < message.size() && (absl::ascii_isalnum(message[end]) || message[end] == '_'))
      continue;
    absl::StrAppend(&text, " (", name, " is set at ", place, ")");
  }
  return text;
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
  CheckOptions check;
  VisitOptions(*this, check);
  ATTND_RETURN_IF_ERROR(check.status);
  if (max_lease < default_lease) {
    return absl::InvalidArgumentError(absl::StrCat("--default_lease ", FormatOption(default_lease),
                                                   ": exceeds --max_lease ",
                                                   FormatOption(max_lease)));
  }
  ATTND_RETURN_IF_ERROR(CheckTls(*this));
  return CheckAddresses(*this);
}

std::string Options::ToString() const {
  PrintOptions print;
  VisitOptions(*this, print);
  return print.text;
}

std::string ExampleConfig() {
  DescribeOptions describe;
  describe.text =
      "# The options of attnd, each with its default. Written by `attnd --print_config`.\n"
      "#\n"
      "# One \"name = value\" a line; take the \"#\" before a name away to set it. Sizes: 512MiB,\n"
      "# 1.5GiB. Times: 50us, 300ms, 30s, 5m, 1h30m. A list is written [\"one\", \"two\"]. Flags "
      "of\n"
      "# the command line win. `attnd --config FILE --check_config` says what is wrong, and "
      "where.\n";
  const Options defaults;
  VisitOptions(defaults, describe);
  return describe.text;
}

ParsedOptions ParseOptions(int argc, const char* const* argv) {
  // Once to learn of the config file and what is wrong with the flags, then over what the file set.
  Options of_flags_alone;
  CommandLine line;
  if (auto exit = ParseCommandLine(argc, argv, of_flags_alone, line)) return *std::move(exit);
  if (line.print_config) return Exit(0, ExampleConfig());
  if (line.print_metrics) return Exit(0, MetricCatalogJson());
  ParsedOptions parsed;
  Places places;
  if (line.given.contains("config")) {
    if (auto exit = ApplyConfig(line.config, parsed.options, places)) return *std::move(exit);
    if (auto exit = ParseCommandLine(argc, argv, parsed.options, line)) return *std::move(exit);
  } else {
    parsed.options = std::move(of_flags_alone);
  }
  if (absl::Status status = parsed.options.Validate(); !status.ok()) {
    return Bad(WithPlaces(status.message(), places, line.given));
  }
  if (!line.check_config) return parsed;
  const Preflight found = CheckFiles(parsed.options);
  if (!found.errors.empty()) {
    Values messages;
    for (const std::string& error : found.errors) {
      messages.push_back(WithPlaces(error, places, line.given));
    }
    return Bad(absl::StrJoin(messages, "\nattnd: "));
  }
  std::string message;
  for (const std::string& warning : found.warnings) {
    absl::StrAppend(&message, "# warning: ", warning, "\n");
  }
  return Exit(0, message + parsed.options.ToString());
}

}  // namespace attnd
