// SPDX-License-Identifier: Apache-2.0
#include "server/observe/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <atomic>
#include <iterator>
#include <utility>
#include <vector>

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
constexpr int kNumCodes = 17;

constexpr const char* kMethods[kNumMethods] = {"Attend", "FlashAttention"};
constexpr const char* kStages[kNumStages] = {"stage_in", "queue", "kernel", "stage_out"};
constexpr const char* kPhases[kNumPhases] = {"prefill", "decode", "mixed", "none"};
constexpr const char* kRefusals[kNumRefusals] = {"queue_full", "draining", "deadline"};

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
    prometheus::BuildGauge()
        .Name("attnd_build_info")
        .Help("The running version; always 1.")
        .Register(registry)
        .Add({{"version", ATTND_VERSION}})
        .Set(1);
  }

  void ObserveRequest(Method method, absl::StatusCode code, Duration total) {
    const int m = static_cast<int>(method), c = IndexOf(code);
    const auto labels = [&] {
      return Labels{{"method", kMethods[m]},
                    {"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(c))}};
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
               return stage_family.Add({{"stage", kStages[stage]}, {"phase", kPhases[phase]}},
                                       SecondsBuckets());
             })
        .Observe(Seconds(duration));
  }

  Counter& MakeCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
  }
  Histogram& MakeHistogram(const char* name, const char* help, const std::vector<double>& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
  }
  prometheus::Family<Counter>& MakeCounters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  prometheus::Family<Histogram>& MakeHistograms(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
  }

  prometheus::Registry registry;
  std::function<GaugeSample()> sampler;

  prometheus::Family<Histogram>& request_family = MakeHistograms(
      "attnd_request_duration_seconds", "From a call's arrival to its answer's hand-over to gRPC.");
  prometheus::Family<Histogram>& stage_family = MakeHistograms(
      "attnd_stage_duration_seconds", "The stages that a call's duration is cut into.");
  prometheus::Family<Counter>& requests_family = MakeCounters("attnd_requests_total", "Calls.");
  prometheus::Family<Counter>& items_family =
      MakeCounters("attnd_items_total", "Items of calls, by their own outcome.");
  prometheus::Family<Counter>& refusals_family =
      MakeCounters("attnd_admission_refused_total", "Calls that admission refused.");

  Children<Histogram, kNumMethods * kNumCodes> request_seconds;
  Children<Counter, kNumMethods * kNumCodes> requests;
  Children<Histogram, kNumStages * kNumPhases> stage_seconds;
  Children<Counter, kNumCodes> items;
  Children<Counter, kNumRefusals> refusals;

  Histogram& batch_items =
      MakeHistogram("attnd_batch_items", "Items of a launch.", PowerBuckets(2, 4096));
  Histogram& batch_tokens =
      MakeHistogram("attnd_batch_tokens", "Tokens of a launch.", PowerBuckets(4, 262144));
  Histogram& batch_requests =
      MakeHistogram("attnd_batch_requests", "Requests that share a launch.", PowerBuckets(2, 4096));
  Counter& launches = MakeCounter("attnd_launches_total", "Launches.");
  Counter& kernel_seconds =
      MakeCounter("attnd_kernel_seconds_total", "Time that the device spent in launches.");
  Counter& tokens_written =
      MakeCounter("attnd_tokens_written_total", "Tokens whose keys and values were stored.");
  Counter& tokens_attended = MakeCounter("attnd_tokens_attended_total", "Query tokens attended.");
  Counter& sessions_resumed = MakeCounter("attnd_sessions_resumed_total", "Sessions resumed.");
  Counter& unauthenticated =
      MakeCounter("attnd_unauthenticated_total", "Calls without a good bearer token.");
  Counter& leases_expired =
      MakeCounter("attnd_leases_expired_total", "Sessions closed at the end of their lease.");

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
                 {{"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(index))}});
           })
      .Increment();
  impl_->num_items.fetch_add(1, std::memory_order_relaxed);
}

void Metrics::RecordRefusal(Refusal reason) {
  const int index = static_cast<int>(reason);
  impl_->refusals
      .Get(index,
           [&]() -> Counter& {
             return impl_->refusals_family.Add({{"reason", kRefusals[index]}});
           })
      .Increment();
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

std::string Metrics::Serialize() {
  std::vector<prometheus::MetricFamily> families = impl_->registry.Collect();
  const auto append = [&](std::vector<prometheus::MetricFamily> more) {
    families.insert(families.end(), std::make_move_iterator(more.begin()),
                    std::make_move_iterator(more.end()));
  };
  if (impl_->sampler) append(CollectGauges(impl_->sampler()));
  append(CollectProcess());
  return prometheus::TextSerializer().Serialize(families);
}

Metrics::Totals Metrics::totals() const {
  return {.requests = impl_->num_requests.load(std::memory_order_relaxed),
          .items = impl_->num_items.load(std::memory_order_relaxed),
          .launches = static_cast<uint64_t>(impl_->launches.Value()),
          .tokens_written = static_cast<uint64_t>(impl_->tokens_written.Value()),
          .tokens_attended = static_cast<uint64_t>(impl_->tokens_attended.Value()),
          .kernel_seconds = impl_->kernel_seconds.Value()};
}

}  // namespace attnd
