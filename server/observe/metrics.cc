// SPDX-License-Identifier: Apache-2.0
#include "server/observe/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <initializer_list>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include "server/observe/catalog.h"

namespace attnd {
namespace {

using prometheus::Counter;
using prometheus::Histogram;
using prometheus::Labels;

constexpr int kNumMethods = 2;
constexpr int kNumStages = 4;
constexpr int kNumPhases = 4;
constexpr int kNoPhase = 3;
constexpr int kNumRefusals = 3;
constexpr int kNumReloads = 2;
constexpr int kNumCodes = 17;

constexpr const char* kMethods[kNumMethods] = {"Attend", "FlashAttention"};
constexpr const char* kStages[kNumStages] = {"stage_in", "queue", "kernel", "stage_out"};
constexpr const char* kPhases[kNumPhases] = {"prefill", "decode", "mixed", "none"};
constexpr const char* kRefusals[kNumRefusals] = {"queue_full", "draining", "deadline"};
constexpr const char* kReloads[kNumReloads] = {"tls", "tenants"};
constexpr const char* kReloadResults[] = {"failed", "ok"};
// Methods that do not attend; one that is not known here counts as the last.
constexpr std::string_view kControlMethods[] = {
    "CheckIntegrity", "CloseCache",       "CloseSession", "CreateSequence",  "DescribeSequence",
    "Drain",          "ForkSequence",     "FreeSequence", "GetCapabilities", "GetStats",
    "ListCaches",     "ListSequences",    "ListSessions", "MatchPrefix",     "OpenCache",
    "OpenSession",    "PublishPrefix",    "RenewLease",   "ResumeSession",   "SetClientState",
    "SetLogLevel",    "TruncateSequence", "other"};
constexpr int kNumControlMethods = static_cast<int>(std::size(kControlMethods));
// Counters by TenantIndex; those beyond share the last. More than the registry has names.
constexpr size_t kMaxTenantIndexes = 1025;

// Stages of a decode on a fast device last microseconds, a long prefill on a slow one seconds:
// three buckets a decade from 1 us to 100 s, so that a quantile is off by a factor of 2.5 at most.
const std::vector<double>& SecondsBuckets() {
  static const auto* const buckets = new std::vector<double>{
      1e-6,   2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2,
      2.5e-2, 5e-2,   0.1,  0.25, 0.5,    1,    2.5,  5,      10,   25,   50,     100};
  return *buckets;
}

// Powers of two from 1 to 4096: items and requests of a launch, up to beyond any sensible batch.
// From 1 to 262144 in powers of four: its tokens, up to the largest legal request.
std::vector<double> PowerBuckets(double base, double last) {
  std::vector<double> buckets;
  for (double bound = 1; bound <= last; bound *= base) buckets.push_back(bound);
  return buckets;
}

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// The labels of a series, their values in the order of the catalogue.
Labels LabelsOf(const MetricSpec& spec, std::initializer_list<std::string> values) {
  assert(values.size() == spec.num_labels);
  Labels labels;
  size_t i = 0;
  for (const std::string& value : values) {
    labels.emplace(std::string(spec.label_names[i++]), value);
  }
  return labels;
}

int IndexOf(absl::StatusCode code) {
  const int index = static_cast<int>(code);
  return index >= 0 && index < kNumCodes ? index : static_cast<int>(absl::StatusCode::kUnknown);
}

// The children of a family by index: made when first used, so that a scrape shows no series of
// codes that never happened, and found without a lock from then on.
template <typename T, int kSize>
class Children {
 public:
  template <typename Make>
  T& Get(int index, const Make& make) {
    std::atomic<T*>& slot = slots_[static_cast<size_t>(index)];
    T* child = slot.load(std::memory_order_acquire);
    if (child == nullptr) {
      child = &make();  // the family returns the same child to all who race here
      slot.store(child, std::memory_order_release);
    }
    return *child;
  }

 private:
  std::array<std::atomic<T*>, kSize> slots_{};
};

}  // namespace

class Metrics::Impl {
 public:
  Impl() {
    const MetricSpec& info = SpecOf(MetricId::kBuildInfo);
    prometheus::BuildGauge()
        .Name(info.name)
        .Help(info.help)
        .Register(registry)
        .Add(LabelsOf(info, {ATTND_VERSION}))
        .Set(1);
    // There from the start: what is alerted on needs its zero.
    for (int reason = 0; reason < kNumRefusals; ++reason) RefusalsOf(reason);
    for (int what = 0; what < kNumReloads; ++what) {
      for (const bool ok : {false, true}) ReloadsOf(what, ok);
    }
  }

  Counter& RefusalsOf(int reason) {
    return refusals.Get(reason, [&]() -> Counter& {
      return refusals_family.Add(
          LabelsOf(SpecOf(MetricId::kAdmissionRefusedTotal), {kRefusals[reason]}));
    });
  }

  Counter& ReloadsOf(int what, bool ok) {
    return reloads.Get(what * 2 + (ok ? 1 : 0), [&]() -> Counter& {
      return reloads_family.Add(
          LabelsOf(SpecOf(MetricId::kReloadsTotal), {kReloads[what], kReloadResults[ok ? 1 : 0]}));
    });
  }

  void ObserveRequest(Method method, absl::StatusCode code, Duration total) {
    const int m = static_cast<int>(method), c = IndexOf(code);
    const auto labels = [&] {
      return LabelsOf(SpecOf(MetricId::kRequestsTotal),
                      {kMethods[m], absl::StatusCodeToString(static_cast<absl::StatusCode>(c))});
    };
    const int index = m * kNumCodes + c;
    request_seconds
        .Get(index, [&]() -> Histogram& { return request_family.Add(labels(), SecondsBuckets()); })
        .Observe(Seconds(total));
    requests.Get(index, [&]() -> Counter& { return requests_family.Add(labels()); }).Increment();
    num_requests.fetch_add(1, std::memory_order_relaxed);
  }

  void ObserveStage(int stage, int phase, Duration duration) {
    stage_seconds
        .Get(stage * kNumPhases + phase,
             [&]() -> Histogram& {
               return stage_family.Add(LabelsOf(SpecOf(MetricId::kStageDurationSeconds),
                                                {kStages[stage], kPhases[phase]}),
                                       SecondsBuckets());
             })
        .Observe(Seconds(duration));
  }

  prometheus::Family<Counter>& MakeCounters(MetricId id) {
    const MetricSpec& spec = SpecOf(id);
    assert(spec.type == MetricType::kCounter);
    return prometheus::BuildCounter().Name(spec.name).Help(spec.help).Register(registry);
  }
  prometheus::Family<Histogram>& MakeHistograms(MetricId id) {
    const MetricSpec& spec = SpecOf(id);
    assert(spec.type == MetricType::kHistogram);
    return prometheus::BuildHistogram().Name(spec.name).Help(spec.help).Register(registry);
  }
  Counter& MakeCounter(MetricId id) { return MakeCounters(id).Add({}); }
  Histogram& MakeHistogram(MetricId id, const std::vector<double>& buckets) {
    return MakeHistograms(id).Add({}, buckets);
  }

  prometheus::Registry registry;
  std::function<GaugeSample()> sampler;

  prometheus::Family<Histogram>& request_family = MakeHistograms(MetricId::kRequestDurationSeconds);
  prometheus::Family<Histogram>& stage_family = MakeHistograms(MetricId::kStageDurationSeconds);
  prometheus::Family<Counter>& requests_family = MakeCounters(MetricId::kRequestsTotal);
  prometheus::Family<Counter>& items_family = MakeCounters(MetricId::kItemsTotal);
  prometheus::Family<Counter>& refusals_family = MakeCounters(MetricId::kAdmissionRefusedTotal);
  prometheus::Family<Counter>& control_family = MakeCounters(MetricId::kControlRequestsTotal);
  prometheus::Family<Counter>& reloads_family = MakeCounters(MetricId::kReloadsTotal);

  Children<Histogram, kNumMethods * kNumCodes> request_seconds;
  Children<Counter, kNumMethods * kNumCodes> requests;
  Children<Histogram, kNumStages * kNumPhases> stage_seconds;
  Children<Counter, kNumCodes> items;
  Children<Counter, kNumRefusals> refusals;
  Children<Counter, kNumControlMethods * kNumCodes> control;
  Children<Counter, kNumReloads * 2> reloads;

  Histogram& batch_items = MakeHistogram(MetricId::kBatchItems, PowerBuckets(2, 4096));
  Histogram& batch_tokens = MakeHistogram(MetricId::kBatchTokens, PowerBuckets(4, 262144));
  Histogram& batch_requests = MakeHistogram(MetricId::kBatchRequests, PowerBuckets(2, 4096));
  Counter& launches = MakeCounter(MetricId::kLaunchesTotal);
  Counter& kernel_seconds = MakeCounter(MetricId::kKernelSecondsTotal);
  Counter& tokens_written = MakeCounter(MetricId::kTokensWrittenTotal);
  Counter& tokens_attended = MakeCounter(MetricId::kTokensAttendedTotal);
  Counter& sessions_resumed = MakeCounter(MetricId::kSessionsResumedTotal);
  Counter& unauthenticated = MakeCounter(MetricId::kUnauthenticatedTotal);
  Counter& leases_expired = MakeCounter(MetricId::kLeasesExpiredTotal);

  std::array<std::atomic<uint64_t>, kMaxTenantIndexes> tenant_tokens{};
  std::atomic<uint64_t> num_requests = 0, num_items = 0;
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

void Metrics::RecordRequest(Method method, absl::StatusCode code, Phase phase,
                            const RequestStages& stages) {
  const Duration durations[kNumStages] = {stages.stage_in, stages.queue, stages.kernel,
                                          stages.stage_out};
  Duration total{};
  for (int i = 0; i < kNumStages; ++i) {
    impl_->ObserveStage(i, static_cast<int>(phase), durations[i]);
    total += durations[i];
  }
  impl_->ObserveRequest(method, code, total);
}

void Metrics::RecordRefused(Method method, absl::StatusCode code, Duration total) {
  impl_->ObserveStage(0, kNoPhase, total);
  impl_->ObserveRequest(method, code, total);
}

void Metrics::RecordItem(absl::StatusCode code) {
  const int index = IndexOf(code);
  impl_->items
      .Get(index,
           [&]() -> Counter& {
             return impl_->items_family.Add(
                 LabelsOf(SpecOf(MetricId::kItemsTotal),
                          {absl::StatusCodeToString(static_cast<absl::StatusCode>(index))}));
           })
      .Increment();
  impl_->num_items.fetch_add(1, std::memory_order_relaxed);
}

void Metrics::RecordRefusal(Refusal reason) {
  impl_->RefusalsOf(static_cast<int>(reason)).Increment();
}

void Metrics::RecordControl(std::string_view method, absl::StatusCode code) {
  int m = 0;
  while (m < kNumControlMethods - 1 && kControlMethods[m] != method) ++m;
  const int c = IndexOf(code);
  impl_->control
      .Get(m * kNumCodes + c,
           [&]() -> Counter& {
             return impl_->control_family.Add(
                 LabelsOf(SpecOf(MetricId::kControlRequestsTotal),
                          {std::string(kControlMethods[m]),
                           absl::StatusCodeToString(static_cast<absl::StatusCode>(c))}));
           })
      .Increment();
}

void Metrics::RecordReload(Reload what, bool ok) {
  impl_->ReloadsOf(static_cast<int>(what), ok).Increment();
}

void Metrics::RecordTenantTokens(TenantIndex tenant, int64_t query_tokens) {
  const size_t index = std::min<size_t>(tenant.value(), kMaxTenantIndexes - 1);
  impl_->tenant_tokens[index].fetch_add(static_cast<uint64_t>(query_tokens),
                                        std::memory_order_relaxed);
}

void Metrics::RecordLaunch(const LaunchRecord& launch) {
  impl_->batch_items.Observe(static_cast<double>(launch.items));
  impl_->batch_tokens.Observe(static_cast<double>(launch.tokens));
  impl_->batch_requests.Observe(static_cast<double>(launch.requests));
  impl_->launches.Increment();
  impl_->kernel_seconds.Increment(Seconds(launch.kernel));
  impl_->tokens_written.Increment(static_cast<double>(launch.tokens_written));
  impl_->tokens_attended.Increment(static_cast<double>(launch.query_tokens));
}

void Metrics::RecordSessionResumed() { impl_->sessions_resumed.Increment(); }
void Metrics::RecordUnauthenticated() { impl_->unauthenticated.Increment(); }
void Metrics::RecordLeaseExpired() { impl_->leases_expired.Increment(); }

void Metrics::SetSampler(std::function<GaugeSample()> sampler) {
  impl_->sampler = std::move(sampler);
}

namespace {

void Append(std::vector<prometheus::MetricFamily> more,
            std::vector<prometheus::MetricFamily>& families) {
  families.insert(families.end(), std::make_move_iterator(more.begin()),
                  std::make_move_iterator(more.end()));
}

}  // namespace

std::vector<prometheus::MetricFamily> Metrics::Collect(GaugeSample sample) {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  const size_t num_tenants = std::min(sample.cache.tenants.size(), kMaxTenantIndexes);
  sample.tenant_tokens_attended.clear();
  for (size_t i = 0; i < num_tenants; ++i) {
    sample.tenant_tokens_attended.push_back(
        impl_->tenant_tokens[i].load(std::memory_order_relaxed));
  }
  Append(CollectGauges(sample), families);
  Append(CollectProcess(), families);
  return families;
}

std::vector<prometheus::MetricFamily> Metrics::Collect() {
  if (impl_->sampler) return Collect(impl_->sampler());
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  Append(CollectProcess(), families);
  return families;
}

std::string Metrics::Serialize() { return prometheus::TextSerializer().Serialize(Collect()); }

Metrics::Totals Metrics::totals() const {
  return {.requests = impl_->num_requests.load(std::memory_order_relaxed),
          .items = impl_->num_items.load(std::memory_order_relaxed),
          .launches = static_cast<uint64_t>(impl_->launches.Value()),
          .tokens_written = static_cast<uint64_t>(impl_->tokens_written.Value()),
          .tokens_attended = static_cast<uint64_t>(impl_->tokens_attended.Value()),
          .kernel_seconds = impl_->kernel_seconds.Value()};
}

}  // namespace attnd
