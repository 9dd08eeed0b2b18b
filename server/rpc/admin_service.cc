// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/alarm.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <utility>

#include "attnd/v1/admin.grpc.pb.h"
#include "kernels/base/mutex.h"
#include "server/observe/log.h"
#include "server/rpc/convert.h"
#include "server/rpc/reply.h"
#include "server/rpc/services.h"

namespace attnd {
namespace {

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// A Drain call: ended by the scheduler's last item or by its timeout, whichever comes first. Shared
// by the two, since each may come after the other has ended the call.
class DrainWait {
 public:
  DrainWait(const ServiceContext& context, const Reply& reply, v1::DrainResponse& response)
      : context_(context), reply_(reply), response_(response) {}

  void End(bool complete) ABSL_LOCKS_EXCLUDED(mu_) {
    {
      MutexLock lock(mu_);
      if (ended_) return;
      ended_ = true;
    }
    const Scheduler::Stats stats = context_.scheduler.stats();
    response_.set_complete(complete);
    response_.set_remaining_items(complete ? 0 : stats.queued_items + stats.launched_items);
    reply_.Send(absl::OkStatus());
  }

 private:
  const ServiceContext& context_;
  const Reply reply_;
  v1::DrainResponse& response_;
  Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

class AdminServiceImpl final : public v1::AdminService::CallbackService {
 public:
  explicit AdminServiceImpl(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* call, const v1::GetStatsRequest*,
                                     v1::GetStatsResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* call,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* call,
                                         const v1::ListSessionsRequest*,
                                         v1::ListSessionsResponse* response) override {
    for (const SessionInfo& info : context_.cache.ListSessions()) {
      ToProto(info, *response->add_sessions());
    }
    return ReplyNow(call, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* CheckIntegrity(grpc::CallbackServerContext* call,
                                           const v1::CheckIntegrityRequest*,
                                           v1::CheckIntegrityResponse* response) override {
    const absl::StatusOr<KvCache::IntegrityReport> report = context_.cache.CheckIntegrity();
    if (report.ok()) {
      response->set_pages_checked(report->pages_checked);
      response->set_sequences_checked(report->sequences_checked);
    }
    return ReplyNow(call, report.status());
  }

  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* call,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;

 private:
  const ServiceContext& context_;
};

grpc::ServerUnaryReactor* AdminServiceImpl::GetStats(grpc::CallbackServerContext* call,
                                                     const v1::GetStatsRequest*,
                                                     v1::GetStatsResponse* response) {
  const Duration uptime = context_.clock.Now() - context_.started;
  response->set_version(context_.version);
  response->set_uptime_seconds(std::chrono::duration<double>(uptime).count());
  response->set_backend(context_.backend.capabilities().backend);
  response->set_device(context_.devices.front().device->info().name);
  response->set_draining(context_.admission.draining());
  response->set_resident_bytes(ResidentBytes());

  const KvCacheStats cache = context_.cache.Stats();
  response->set_pool_bytes(cache.pool_bytes.value());
  response->set_pool_free_bytes(cache.pool_free_bytes.value());
  for (size_t i = 0; i < cache.pools.size(); ++i) {
    const PoolStats& pool = cache.pools[i];
    v1::DeviceStats& device = *response->add_devices();
    device.set_name(context_.devices[i].device->info().name);
    device.set_pool_bytes(pool.bytes.value());
    device.set_pool_free_bytes(pool.free_bytes.value());
    device.set_sequences(pool.num_sequences);
    device.set_failure(pool.failure);
    device.set_host_memory(context_.devices[i].device->info().host_memory);
  }
  for (const CacheInfo& info : cache.caches) ToProto(info, *response->add_caches());
  response->set_sessions(cache.num_sessions);
  response->set_sequences(cache.num_sequences);
  response->set_prefix_tokens_queried_total(cache.prefix_tokens_queried_total);
  response->set_prefix_tokens_matched_total(cache.prefix_tokens_matched_total);
  response->set_prefix_pages_evicted_total(cache.prefix_pages_evicted_total);

  const Scheduler::Stats scheduler = context_.scheduler.stats();
  response->set_queued_items(scheduler.queued_items);
  response->set_queued_tokens(scheduler.queued_tokens);

  const Metrics::Totals totals = context_.metrics.totals();
  response->set_requests_total(totals.requests);
  response->set_items_total(totals.items);
  response->set_launches_total(totals.launches);
  response->set_tokens_written_total(totals.tokens_written);
  response->set_tokens_attended_total(totals.tokens_attended);
  response->set_kernel_seconds_total(totals.kernel_seconds);
  return ReplyNow(call, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminServiceImpl::Drain(grpc::CallbackServerContext* call,
                                                  const v1::DrainRequest* request,
                                                  v1::DrainResponse* response) {
  absl::StatusOr<Duration> timeout = DurationFromMs(request->timeout_ms(), "timeout_ms");
  if (!timeout.ok()) return ReplyNow(call, timeout.status());
  if (*timeout == Duration::zero()) *timeout = context_.drain_timeout;
  context_.start_draining();

  const Reply reply(call);
  auto wait = std::make_shared<DrainWait>(context_, reply, *response);
  const Duration most = std::chrono::hours(24 * 365);
  const auto deadline = std::chrono::system_clock::now() + std::min(*timeout, most);
  auto alarm = std::make_unique<grpc::Alarm>();
  alarm->Set(std::chrono::time_point_cast<std::chrono::system_clock::duration>(deadline),
             [wait](bool) mutable { std::exchange(wait, nullptr)->End(/*complete=*/false); });
  // The alarm is cancelled, and its callback runs, when this closure goes.
  context_.scheduler.WhenIdle([wait, alarm = std::move(alarm)] { wait->End(/*complete=*/true); });
  return reply.reactor();
}

grpc::ServerUnaryReactor* AdminServiceImpl::SetLogLevel(grpc::CallbackServerContext* call,
                                                        const v1::SetLogLevelRequest* request,
                                                        v1::SetLogLevelResponse* response) {
  LogLevel former = CurrentLogLevel();
  LogLevel level = former;
  if (!request->level().empty()) {
    const absl::StatusOr<LogLevel> asked_for = ParseLogLevel(request->level());
    if (!asked_for.ok()) return ReplyNow(call, asked_for.status());
    level = *asked_for;
    // Before or after, so that the change itself is in the log where either level shows it.
    const bool shown_before = LogIsOn(LogLevel::kInfo);
    const auto say = [&] {
      Log(LogLevel::kInfo, "log level changed",
          {{"former", LogLevelName(former)}, {"level", LogLevelName(level)}});
    };
    if (shown_before) say();
    former = attnd::SetLogLevel(level);
    if (!shown_before) say();
  }
  response->set_former(std::string(LogLevelName(former)));
  response->set_level(std::string(LogLevelName(level)));
  return ReplyNow(call, absl::OkStatus());
}

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const ServiceContext& context) {
  return std::make_unique<AdminServiceImpl>(context);
}

}  // namespace attnd
