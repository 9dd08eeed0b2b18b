// SPDX-License-Identifier: Apache-2.0
//
// Everything that can be set, in one validated struct, filled from flags and a config file and
// printed at start. `attnd --help` is generated from the same declarations (options.cc).
//
// Plain values, safe from any thread. An Options that came from ParseOptions has passed Validate.
//
//   ParsedOptions parsed = ParseOptions(argc, argv);
//   if (parsed.exit_code >= 0) return Print(parsed);
//   Serve(parsed.options);
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"

namespace attnd {

struct Options {
  // Where to serve: "unix:/path" or "host:port"; port 0 takes a free one.
  std::vector<std::string> listen = {"127.0.0.1:7450"};
  bool insecure = false;  // serve plain text on other than loopback addresses, too
  std::string metrics_listen = "127.0.0.1:7451";  // empty: off
  bool insecure_metrics = false;                  // the same for metrics_listen
  std::string ready_file;  // written once serving: {"listen": [...], "metrics": "...", "pid": n}

  // PEM files. With a certificate every TCP listener speaks TLS; with a client CA it asks for a
  // certificate of that CA. Read again when they change.
  std::string tls_cert, tls_key, tls_client_ca;
  std::string tenants_file;  // who may call, and how much is whose; see security/tenants_file.h

  std::string backend = "auto";  // auto, cpu, hip
  std::string hip_plugin;        // path; empty: beside the program, or its lib/attnd
  int num_threads = 0;           // of the CPU backend; 0: those of the machine
  double gpu_memory_fraction = 0.9;
  Bytes pool_bytes;  // of each device; 0: 1 GiB on the CPU, gpu_memory_fraction of a GPU
  Bytes max_tensor_bytes = Bytes(256ull << 20);  // the largest legal tensor; sets the message limit
  Bytes max_staging_bytes = Bytes(2ull << 30);
  int64_t max_items_per_request = 8192;
  int64_t max_tokens_per_request = 1 << 18;
  int64_t max_stream_requests = 64;  // in flight on one AttendStream

  int64_t max_queued_requests = 4096;
  int64_t max_queued_items = 65536;
  int64_t max_queued_tokens = 1 << 20;
  int64_t max_batch_items = 256;
  int64_t max_batch_tokens = 8192;
  Duration max_linger{};

  Duration default_lease = std::chrono::minutes(5);
  Duration max_lease = std::chrono::hours(24);
  Duration drain_timeout = std::chrono::seconds(30);
  bool exit_with_stdin = false;  // the end of standard input is a SIGTERM
  Duration integrity_check_interval = std::chrono::minutes(1);  // when idle; 0: never
  bool reflection = true;
  std::string log_level = "info";   // trace, debug, info, warning, error
  std::string log_format = "text";  // text, json

  // A request's header beside its q, k and v.
  Bytes max_message_bytes() const;
  // The KV pool of a device with that much memory, whole superblocks; `host` where it is the
  // host's.
  Bytes PoolBytes(Bytes device_memory, bool host) const;
  // INVALID_ARGUMENT names the flag, its value and what is allowed.
  absl::Status Validate() const;
  std::string ToString() const;  // one "name = value" a line
};

// Fills options from the command line (and from `--config FILE`). An outcome with `exit_code` set
// means: print `message` and exit (--help, --version, a bad flag, a bad config file: all its
// errors, each with its line).
struct ParsedOptions {
  Options options;
  // 0 for --help, --version, --check_config, --print_config, --print_metrics; kExitUsage for a bad
  // flag or file
  int exit_code = -1;
  std::string message;
};
inline constexpr int kExitUsage = 2;
ParsedOptions ParseOptions(int argc, const char* const* argv);

// A config file that sets nothing and shows everything: deploy/attnd.conf is this.
std::string ExampleConfig();

const char* Version();  // of the daemon: "0.1.0"

}  // namespace attnd
