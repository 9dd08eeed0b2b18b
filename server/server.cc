// SPDX-License-Identifier: Apache-2.0
#include "server/server.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/kv_cache.h"
#include "server/admission/admission.h"
#include "server/base/option_text.h"
#include "server/engine/engine.h"
#include "server/engine/staging.h"
#include "server/observe/device_telemetry.h"
#include "server/observe/http_server.h"
#include "server/observe/log.h"
#include "server/observe/metrics.h"
#include "server/observe/status_json.h"
#include "server/rpc/listener.h"
#include "server/rpc/service_context.h"
#include "server/scheduler/scheduler.h"
#include "server/security_state.h"
#include "spdlog/spdlog.h"

namespace attnd {
namespace {

// How soon a failed device shows in the health service.
constexpr Duration kWatchInterval = std::chrono::milliseconds(200);
// How often files that are read again are looked at.
constexpr Duration kReloadInterval = std::chrono::seconds(1);
// What calls that still run when the listeners close have to end by themselves, drained or not.
constexpr Duration kShutdownGrace = std::chrono::milliseconds(500);

uint64_t RandomBoot() {
  std::random_device random;
  return static_cast<uint64_t>(random()) << 32 | random();
}

std::vector<Device*> DevicesOf(const Platform& platform) {
  std::vector<Device*> devices;
  for (const PlatformDevice& one : platform.devices) devices.push_back(one.device.get());
  return devices;
}

// Readers see the whole file or none.
absl::Status WriteFileAtomically(const std::string& path, const std::string& content) {
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  std::ofstream file(temporary, std::ios::trunc);
  file << content;
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    std::remove(temporary.c_str());
    return absl::InvalidArgumentError(
        absl::StrCat("--ready_file: cannot write \"", path, "\": ", strerror(error)));
  }
  return absl::OkStatus();
}

}  // namespace

// Members are declared in the order of construction; see server.h for why it is this one.
class Server::Impl {
 public:
  Impl(const Options& options, Platform platform)
      : options_(options),
        platform_(std::move(platform)),
        security_(options_, metrics_),
        staging_(DevicesOf(platform_), options.max_staging_bytes) {}
  ~Impl();

  absl::Status Start();
  absl::Status Drain(Duration timeout);

  const std::vector<std::string>& listen_addresses() const { return listen_addresses_; }
  const std::string& metrics_address() const { return metrics_address_; }

 private:
  absl::Status BuildCore();
  // Gives every tenant its limits, as the tenants file has them now.
  void ApplyTenants();
  absl::StatusOr<Buffer> AllocatePool(Device& device, Bytes size) const;
  void BuildContext();
  GaugeSample Sample() const;
  std::string Status();
  absl::Status StartMetricsPort();
  absl::Status StartListeners();
  absl::Status WriteReadyFile() const;

  void StartDraining() ABSL_LOCKS_EXCLUDED(mu_);
  // Tells every listener's health service whether new work is served.
  void UpdateHealth() ABSL_LOCKS_EXCLUDED(mu_);
  // Watches the device, and checks the cache's integrity when nothing runs.
  void Watch() ABSL_LOCKS_EXCLUDED(mu_);
  void CheckIntegrityIfIdle();

  const Options options_;
  const Clock& clock_ = Clock::Real();
  Metrics metrics_;
  const DeviceTelemetry telemetry_;
  Platform platform_;
  SecurityState security_;
  std::vector<Buffer> pools_;  // one for each device
  Staging staging_;
  std::optional<KvCache> cache_;
  std::vector<std::unique_ptr<Engine>> engines_;  // one for each device
  std::optional<Scheduler> scheduler_;
  std::optional<Admission> admission_;
  std::optional<ServiceContext> context_;
  std::unique_ptr<HttpServer> http_;
  std::vector<std::unique_ptr<Listener>> listeners_;  // complete before listening_ is set
  std::vector<std::string> listen_addresses_;
  std::string metrics_address_;

  Mutex mu_;
  bool listening_ ABSL_GUARDED_BY(mu_) = false;
  CondVar stop_changed_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread watcher_;
};

absl::Status Server::Impl::Start() {
  ATTND_RETURN_IF_ERROR(options_.Validate());
  ATTND_RETURN_IF_ERROR(security_.Load());
  ATTND_RETURN_IF_ERROR(BuildCore());
  ApplyTenants();
  BuildContext();
  ATTND_RETURN_IF_ERROR(StartMetricsPort());
  ATTND_RETURN_IF_ERROR(StartListeners());
  {
    MutexLock lock(mu_);
    listening_ = true;
  }
  UpdateHealth();
  watcher_ = std::thread([this] { Watch(); });
  return WriteReadyFile();
}

absl::StatusOr<Buffer> Server::Impl::AllocatePool(Device& device, Bytes size) const {
  absl::StatusOr<Buffer> pool = device.Allocate(size);
  if (pool.ok()) {
    spdlog::info("pool: {} on {}", FormatBytes(size), device.info().name);
    return pool;
  }
  const bool by_fraction = options_.pool_bytes == Bytes(0) && !device.info().host_memory;
  return absl::Status(
      pool.status().code(),
      absl::StrCat(pool.status().message(), "; the KV pool's size is set by ",
                   by_fraction
                       ? absl::StrCat("--gpu_memory_fraction=", options_.gpu_memory_fraction,
                                      " (of all its memory) or --pool_bytes")
                       : "--pool_bytes",
                   ", lower it or free memory"));
}

void Server::Impl::ApplyTenants() {
  const KvCache::Options cache_limits;
  TenantShare whole{.kv_bytes = {},
                    .staging_bytes = staging_.limit(),
                    .caches = cache_limits.max_caches,
                    .sessions = cache_limits.max_sessions,
                    .sequences = cache_limits.max_sequences,
                    .queued_requests = options_.max_queued_requests,
                    .queued_items = options_.max_queued_items,
                    .queued_tokens = options_.max_queued_tokens};
  for (const Buffer& pool : pools_) whole.kv_bytes += pool.size();
  for (const auto& [tenant, name, share] : SharesOf(security_.tenants(), whole)) {
    cache_->SetTenant(tenant, name,
                      {.kv_bytes = share.kv_bytes,
                       .caches = share.caches,
                       .sessions = share.sessions,
                       .sequences = share.sequences});
    staging_.SetTenantLimit(tenant, share.staging_bytes);
    admission_->SetTenantLimits(tenant, {.requests = share.queued_requests,
                                         .items = share.queued_items,
                                         .tokens = share.queued_tokens});
  }
}

absl::Status Server::Impl::BuildCore() {
  std::vector<std::span<std::byte>> pools;
  std::vector<Engine*> engines;
  for (const auto& [device, backend] : platform_.devices) {
    const DeviceInfo& info = device->info();
    const Bytes pool_bytes = options_.PoolBytes(info.total_memory, info.host_memory);
    ATTND_ASSIGN_OR_RETURN(Buffer pool, AllocatePool(*device, pool_bytes));
    pools.emplace_back(pool.data(), pool.size().value());
    pools_.push_back(std::move(pool));
    engines_.push_back(std::make_unique<Engine>(*backend, *device));
    ATTND_RETURN_IF_ERROR(engines_.back()->Init());
    engines.push_back(engines_.back().get());
  }
  cache_.emplace(pools,
                 KvCache::Options{.boot = RandomBoot(),
                                  .default_lease = options_.default_lease,
                                  .max_lease = options_.max_lease},
                 clock_);
  scheduler_.emplace(*cache_, engines, metrics_, clock_,
                     Scheduler::Options{.max_batch_items = options_.max_batch_items,
                                        .max_batch_tokens = options_.max_batch_tokens,
                                        .max_linger = options_.max_linger});
  admission_.emplace(*cache_, *scheduler_, metrics_, clock_,
                     Admission::Options{.max_queued_requests = options_.max_queued_requests,
                                        .max_queued_items = options_.max_queued_items,
                                        .max_queued_tokens = options_.max_queued_tokens});
  return absl::OkStatus();
}

void Server::Impl::BuildContext() {
  context_.emplace(ServiceContext{
      .cache = *cache_,
      .admission = *admission_,
      .scheduler = *scheduler_,
      .backend = *platform_.devices.front().backend,
      .devices = platform_.devices,
      .staging = staging_,
      .metrics = metrics_,
      .tenants = security_.tenants(),
      .clock = clock_,
      .limits = {.max_items = options_.max_items_per_request,
                 .max_tokens = options_.max_tokens_per_request,
                 .max_message_bytes = options_.max_message_bytes().value(),
                 .max_stream_requests = options_.max_stream_requests},
      .version = std::string(Version()),
      .started = clock_.Now(),
      .drain_timeout = options_.drain_timeout,
      .start_draining = [this] { StartDraining(); },
  });
}

GaugeSample Server::Impl::Sample() const {
  const Scheduler::Stats stats = scheduler_->stats();
  const KvCache::Options cache_limits;
  GaugeSample sample{.cache = cache_->Stats(),
                     .queued_items = stats.queued_items,
                     .queued_tokens = stats.queued_tokens,
                     .launched_items = stats.launched_items,
                     .staging_bytes_in_use = staging_.in_use().value(),
                     .draining = admission_->draining(),
                     .limits = {.queued_requests = options_.max_queued_requests,
                                .queued_items = options_.max_queued_items,
                                .queued_tokens = options_.max_queued_tokens,
                                .staging_bytes = staging_.limit(),
                                .sessions = cache_limits.max_sessions,
                                .sequences = cache_limits.max_sequences}};
  if (const TlsCredentials* tls = security_.tls()) {
    sample.tls_certificate_expiry_s = std::chrono::system_clock::to_time_t(tls->expires());
  }
  for (const auto& [device, backend] : platform_.devices) {
    sample.devices.push_back(telemetry_.Sample(*device, backend->capabilities().backend));
  }
  for (const TenantInfo& tenant : sample.cache.tenants) {
    sample.tenant_queue_refusals.push_back(admission_->refused(tenant.tenant));
  }
  return sample;
}

// For the status page.
std::string Server::Impl::Status() {
  using std::chrono::system_clock;
  const GaugeSample sample = Sample();
  const Duration now = system_clock::now().time_since_epoch();
  return StatusJson({.version = std::string(Version()),
                     .uptime = clock_.Now() - context_->started,
                     .unix_time_ms = now / std::chrono::milliseconds(1),
                     .ready = scheduler_->device_status(),
                     .capabilities = platform_.devices.front().backend->capabilities(),
                     .options = options_.ToString(),
                     .sample = sample,
                     .sessions = cache_->ListSessions(),
                     .families = metrics_.Collect(sample)});
}

absl::Status Server::Impl::StartMetricsPort() {
  metrics_.SetSampler([this] { return Sample(); });
  if (options_.metrics_listen.empty()) return absl::OkStatus();
  HttpServer::Handlers handlers{.metrics = [this] { return metrics_.Serialize(); },
                                .live = [this] { return scheduler_->device_status(); },
                                .ready =
                                    [this] {
                                      if (!admission_->draining())
                                        return scheduler_->device_status();
                                      return absl::UnavailableError("draining");
                                    },
                                .status = [this] { return Status(); }};
  if (security_.guards_metrics()) {
    handlers.authorize = [this](std::optional<std::string_view> authorization) {
      return security_.AuthorizeMetrics(authorization);
    };
  }
  ATTND_ASSIGN_OR_RETURN(http_, HttpServer::Start(options_.metrics_listen, std::move(handlers)));
  metrics_address_ = http_->address();
  spdlog::info("metrics on http://{}/metrics", metrics_address_);
  return absl::OkStatus();
}

absl::Status Server::Impl::StartListeners() {
  const Bytes message = options_.max_message_bytes();
  const ListenerOptions listener_options{.max_message_bytes = message,
                                         .buffer_limit = Bytes(2 * message.value()),
                                         .tls = security_.tls(),
                                         .insecure = options_.insecure,
                                         .reflection = options_.reflection};
  for (const std::string& address : options_.listen) {
    ATTND_ASSIGN_OR_RETURN(std::unique_ptr<Listener> listener,
                           Listener::Start(address, listener_options, *context_));
    spdlog::info("serving on {}", listener->address());
    listen_addresses_.push_back(listener->address());
    listeners_.push_back(std::move(listener));
  }
  return absl::OkStatus();
}

absl::Status Server::Impl::WriteReadyFile() const {
  if (options_.ready_file.empty()) return absl::OkStatus();
  const nlohmann::json ready = {
      {"listen", listen_addresses_}, {"metrics", metrics_address_}, {"pid", getpid()}};
  return WriteFileAtomically(options_.ready_file, ready.dump() + "\n");
}

void Server::Impl::UpdateHealth() {
  // Held while the listeners are told, so that the last to tell them tells the truth; telling them
  // only sets a value.
  MutexLock lock(mu_);
  if (!listening_) return;
  const bool serving = !admission_->draining() && scheduler_->device_status().ok();
  for (const std::unique_ptr<Listener>& listener : listeners_) listener->SetServing(serving);
}

// A client of the first listener may ask for it while the last is still being started.
void Server::Impl::StartDraining() {
  admission_->StartDraining();
  UpdateHealth();
}

absl::Status Server::Impl::Drain(Duration timeout) {
  StartDraining();
  // Shared with a callback that may come after the wait was given up.
  struct Idle {
    Mutex mu;
    CondVar changed;
    bool reached ABSL_GUARDED_BY(mu) = false;
  };
  auto idle = std::make_shared<Idle>();
  scheduler_->WhenIdle([idle] {
    MutexLock lock(idle->mu);
    idle->reached = true;
    idle->changed.SignalAll();
  });
  const MonotonicTime now = clock_.Now();
  const MonotonicTime deadline = timeout > kNoDeadline - now ? kNoDeadline : now + timeout;
  bool reached = false;
  {
    MutexLock lock(idle->mu);
    while (!idle->reached && idle->changed.WaitUntil(idle->mu, deadline)) {
    }
    reached = idle->reached;
  }
  if (reached) return absl::OkStatus();
  const Scheduler::Stats stats = scheduler_->stats();
  return absl::DeadlineExceededError(
      absl::StrCat(stats.queued_items + stats.launched_items, " items remain"));
}

void Server::Impl::Watch() {
  bool device_ok = true;
  MonotonicTime next_check = clock_.Now() + options_.integrity_check_interval;
  MonotonicTime next_reload = clock_.Now() + kReloadInterval;
  while (true) {
    {
      MutexLock lock(mu_);
      const MonotonicTime wake = clock_.Now() + kWatchInterval;
      while (!stop_ && stop_changed_.WaitUntil(mu_, wake)) {
      }
      if (stop_) return;
    }
    if (const absl::Status device = scheduler_->device_status(); device_ok && !device.ok()) {
      device_ok = false;
      spdlog::error("a device has failed, not serving any more: {}", std::string(device.message()));
      UpdateHealth();
    }
    if (clock_.Now() >= next_reload) {
      if (security_.ReloadIfChanged()) ApplyTenants();
      next_reload = clock_.Now() + kReloadInterval;
    }
    LogSuppressedCalls();
    if (options_.integrity_check_interval > Duration::zero() && clock_.Now() >= next_check) {
      CheckIntegrityIfIdle();
      next_check = clock_.Now() + options_.integrity_check_interval;
    }
  }
}

void Server::Impl::CheckIntegrityIfIdle() {
  const Scheduler::Stats stats = scheduler_->stats();
  if (stats.queued_items + stats.launched_items > 0) return;
  const absl::StatusOr<KvCache::IntegrityReport> report = cache_->CheckIntegrity();
  if (report.ok()) {
    spdlog::debug("integrity: {} pages, {} sequences", report->pages_checked,
                  report->sequences_checked);
    return;
  }
  spdlog::error("the cache is not consistent, please report this: {}",
                std::string(report.status().message()));
}

Server::Impl::~Impl() {
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  stop_changed_.SignalAll();
  if (watcher_.joinable()) watcher_.join();
  if (!options_.ready_file.empty()) std::remove(options_.ready_file.c_str());
  for (const std::unique_ptr<Listener>& listener : listeners_) listener->Shutdown(kShutdownGrace);
  listeners_.clear();
  http_.reset();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options, Platform platform) {
  auto impl = std::make_unique<Impl>(options, std::move(platform));
  ATTND_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

const std::vector<std::string>& Server::listen_addresses() const {
  return impl_->listen_addresses();
}
const std::string& Server::metrics_address() const { return impl_->metrics_address(); }
absl::Status Server::Drain(Duration timeout) { return impl_->Drain(timeout); }

}  // namespace attnd
