// SPDX-License-Identifier: Apache-2.0
#include <grpcpp/alarm.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <utility>

#include "attnd/v1/admin.grpc.pb.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
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

// Without a level it only says which one it is.
absl::Status ChangeLogLevel(const v1::SetLogLevelRequest& request,
                            v1::SetLogLevelResponse& response) {
  LogLevel former = CurrentLogLevel();
  LogLevel level = former;
  if (!request.level().empty()) {
    ATTND_ASSIGN_OR_RETURN(level, ParseLogLevel(request.level()));
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
  response.set_former(std::string(LogLevelName(former)));
  response.set_level(std::string(LogLevelName(level)));
  return absl::OkStatus();
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
    return Serve(context_, call, "ListSessions", Right::kObserve, [&](const Caller& caller) {
      for (const SessionInfo& info : context_.cache.ListSessions()) {
        if (MaySee(caller, info.tenant)) ToProto(info, *response->add_sessions());
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* CheckIntegrity(grpc::CallbackServerContext* call,
                                           const v1::CheckIntegrityRequest*,
                                           v1::CheckIntegrityResponse* response) override {
    return Serve(context_, call, "CheckIntegrity", Right::kOperate, [&](const Caller&) {
      const absl::StatusOr<KvCache::IntegrityReport> report = context_.cache.CheckIntegrity();
      if (report.ok()) {
        response->set_pages_checked(report->pages_checked);
        response->set_sequences_checked(report->sequences_checked);
      }
      return report.status();
    });
  }

  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* call,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;

 private:
  void FillOwn(const Caller& caller, const KvCacheStats& cache,
               v1::GetStatsResponse& response) const;
  // What concerns the daemon as a whole.
  void FillCommon(const KvCacheStats& cache, v1::GetStatsResponse& response) const;

  const ServiceContext& context_;
};

grpc::ServerUnaryReactor* AdminServiceImpl::GetStats(grpc::CallbackServerContext* call,
                                                     const v1::GetStatsRequest*,
                                                     v1::GetStatsResponse* response) {
  return Serve(context_, call, "GetStats", Right::kObserve, [&](const Caller& caller) {
    const Duration uptime = context_.clock.Now() - context_.started;
    response->set_version(context_.version);
    response->set_uptime_seconds(std::chrono::duration<double>(uptime).count());
    response->set_backend(context_.backend.capabilities().backend);
    response->set_device(context_.devices.front().device->info().name);
    response->set_draining(context_.admission.draining());
    const KvCacheStats cache = context_.cache.Stats();
    FillOwn(caller, cache, *response);
    if (caller.sees_all()) FillCommon(cache, *response);
    return absl::OkStatus();
  });
}

// What is each tenant's own.
void AdminServiceImpl::FillOwn(const Caller& caller, const KvCacheStats& cache,
                               v1::GetStatsResponse& response) const {
  for (const CacheInfo& info : cache.caches) {
    if (MaySee(caller, info.tenant)) ToProto(info, *response.add_caches());
  }
  int64_t sessions = 0, sequences = 0;
  for (const TenantInfo& info : cache.tenants) {
    if (!MaySee(caller, info.tenant)) continue;
    sessions += info.sessions;
    sequences += info.sequences;
    // The one of everybody has nothing where callers are told apart.
    if (context_.tenants.enabled() && info.name.empty()) continue;
    ToProto(info, context_.admission.refused(info.tenant), *response.add_tenants());
    response.set_pool_bytes(info.limits.kv_bytes.value());
    response.set_pool_free_bytes(info.limits.kv_bytes.value() -
                                 std::min(info.limits.kv_bytes, info.kv_bytes).value());
  }
  response.set_sessions(sessions);
  response.set_sequences(sequences);
}

void AdminServiceImpl::FillCommon(const KvCacheStats& cache, v1::GetStatsResponse& response) const {
  response.set_resident_bytes(ResidentBytes());
  response.set_pool_bytes(cache.pool_bytes.value());
  response.set_pool_free_bytes(cache.pool_free_bytes.value());
  for (size_t i = 0; i < cache.pools.size(); ++i) {
    const PoolStats& pool = cache.pools[i];
    v1::DeviceStats& device = *response.add_devices();
    device.set_name(context_.devices[i].device->info().name);
    device.set_pool_bytes(pool.bytes.value());
    device.set_pool_free_bytes(pool.free_bytes.value());
    device.set_sequences(pool.num_sequences);
    device.set_failure(pool.failure);
    device.set_host_memory(context_.devices[i].device->info().host_memory);
  }
  response.set_prefix_tokens_queried_total(cache.prefix_tokens_queried_total);
  response.set_prefix_tokens_matched_total(cache.prefix_tokens_matched_total);
  response.set_prefix_pages_evicted_total(cache.prefix_pages_evicted_total);

  const Scheduler::Stats scheduler = context_.scheduler.stats();
  response.set_queued_items(scheduler.queued_items);
  response.set_queued_tokens(scheduler.queued_tokens);

  const Metrics::Totals totals = context_.metrics.totals();
  response.set_requests_total(totals.requests);
  response.set_items_total(totals.items);
  response.set_launches_total(totals.launches);
  response.set_tokens_written_total(totals.tokens_written);
  response.set_tokens_attended_total(totals.tokens_attended);
  response.set_kernel_seconds_total(totals.kernel_seconds);
}

grpc::ServerUnaryReactor* AdminServiceImpl::Drain(grpc::CallbackServerContext* call,
                                                  const v1::DrainRequest* request,
                                                  v1::DrainResponse* response) {
  return ServeLater(
      context_, call, "Drain", Right::kOperate, [=, this](const Caller&, const Reply& reply) {
        absl::StatusOr<Duration> timeout = DurationFromMs(request->timeout_ms(), "timeout_ms");
        if (!timeout.ok()) return reply.Send(timeout.status());
        if (*timeout == Duration::zero()) *timeout = context_.drain_timeout;
        context_.start_draining();

        auto wait = std::make_shared<DrainWait>(context_, reply, *response);
        const Duration most = std::chrono::hours(24 * 365);
        const auto deadline = std::chrono::system_clock::now() + std::min(*timeout, most);
        auto alarm = std::make_unique<grpc::Alarm>();
        alarm->Set(std::chrono::time_point_cast<std::chrono::system_clock::duration>(deadline),
                   [wait](bool) mutable { std::exchange(wait, nullptr)->End(/*complete=*/false); });
        // The alarm is cancelled, and its callback runs, when this closure goes.
        context_.scheduler.WhenIdle(
            [wait, alarm = std::move(alarm)] { wait->End(/*complete=*/true); });
      });
}

grpc::ServerUnaryReactor* AdminServiceImpl::SetLogLevel(grpc::CallbackServerContext* call,
                                                        const v1::SetLogLevelRequest* request,
                                                        v1::SetLogLevelResponse* response) {
  return Serve(context_, call, "SetLogLevel", Right::kOperate,
               [&](const Caller&) { return ChangeLogLevel(*request, *response); });
}

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const ServiceContext& context) {
  return std::make_unique<AdminServiceImpl>(context);
}

}  // namespace attnd
