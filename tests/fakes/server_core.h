// SPDX-License-Identifier: Apache-2.0
//
// The server below its RPCs, on fakes: a real KV cache over poisoned memory, a fake device, a clock
// that the test moves, and short ways to make requests and to wait for them.
//
//   ServerCore core({.completion = FakePlatform::Completion::kManual});
//   SequenceId sequence = core.NewSequence();
//   PendingRequest pending = core.Submit({core.Write(sequence, /*layer=*/0, /*step=*/1, 0, 4)});
//   core.platform.CompleteNext();
//   EXPECT_TRUE(pending.Wait().outcomes[0].status.ok());
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kv_cache/kv_cache.h"
#include "server/engine/engine.h"
#include "server/observe/metrics.h"
#include "server/scheduler/scheduler.h"
#include "tests/fakes/fake_backend.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/poisoned_memory.h"

namespace attnd {

// The answer to a submitted request, to come.
class PendingRequest {
 public:
  explicit PendingRequest(std::future<std::unique_ptr<Request>> answer)
      : answer_(std::move(answer)) {}

  RequestId id = kNoRequest;

  bool done() const {
    return request_ != nullptr ||
           answer_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  // Valid as long as this.
  Request& Wait() & {
    if (request_ == nullptr) request_ = answer_.get();
    return *request_;
  }
  absl::Status WaitForStatus(size_t item = 0) { return Wait().outcomes[item].status; }

 private:
  std::future<std::unique_ptr<Request>> answer_;
  std::unique_ptr<Request> request_;
};

struct ServerCoreOptions {
  FakePlatform::Completion completion = FakePlatform::Completion::kInline;
  Scheduler::Options scheduler = {};
  Bytes pool_bytes = Bytes(8u << 20);  // of each device
  size_t num_devices = 1;
  Duration lease = std::chrono::minutes(5);
};

class ServerCore {
 public:
  static constexpr int32_t kLayers = 4, kQueryHeads = 2, kKvHeads = 1, kHeadDim = 8, kPageSize = 4;

  explicit ServerCore(const ServerCoreOptions& options = {})
      : devices(MakeDevices(options)),
        platform(devices.front().platform),
        cache(Pools(devices), CacheOptions(options), clock) {
    std::vector<Engine*> engines;
    for (OneDevice& device : devices) {
      if (!device.engine.Init().ok()) std::abort();
      engines.push_back(&device.engine);
    }
    scheduler = std::make_unique<Scheduler>(cache, engines, metrics, clock, options.scheduler);
    cache_id = cache
                   .OpenCache("model",
                              {.num_layers = kLayers,
                               .num_query_heads = kQueryHeads,
                               .num_kv_heads = kKvHeads,
                               .head_dim_k = kHeadDim,
                               .head_dim_v = kHeadDim,
                               .kv_dtype = DType::kF32,
                               .page_size_tokens = kPageSize},
                              PageCount(0))
                   ->info.cache;
    session = NewSession();
  }
  ~ServerCore() {
    for (OneDevice& device : devices) device.platform.CompleteAll();
    scheduler.reset();
  }

  SessionRef NewSession() { return cache.OpenSession(Duration{}, "test")->ref; }
  SequenceId NewSequence() { return NewSequence(session); }
  SequenceId NewSequence(SessionRef by) { return *cache.CreateSequence(by, cache_id, ""); }

  // Tensors are one zeroed block: nothing computes with them.
  WorkItem Dense(int64_t tokens) const {
    WorkItem item;
    item.key = {.q_dtype = DType::kF32,
                .kv_dtype = DType::kF32,
                .head_dim_k = kHeadDim,
                .head_dim_v = kHeadDim,
                .features = {}};
    item.num_query_heads = kQueryHeads;
    item.num_kv_heads = kKvHeads;
    item.query_len = tokens;
    item.q = item.k = item.v = tensors_.data();
    item.dense_kv_len = tokens;
    return item;
  }
  WorkItem Write(SequenceId sequence, uint32_t layer, uint64_t step, int64_t start,
                 int64_t tokens) {
    return Write(session, sequence, layer, step, start, tokens);
  }
  WorkItem Write(SessionRef by, SequenceId sequence, uint32_t layer, uint64_t step, int64_t start,
                 int64_t tokens) {
    WorkItem item = Dense(tokens);
    item.access = LayerAccess{.by = by,
                              .sequence = sequence,
                              .layer = LayerIndex(layer),
                              .write = true,
                              .step = step,
                              .start_position = TokenCount(start),
                              .num_tokens = TokenCount(tokens),
                              .kv_length = {}};
    // As validation does; it finds nothing where the test means it to.
    if (const auto place = cache.PlaceOf(by, sequence); place.ok()) item.device = place->device;
    return item;
  }
  WorkItem Read(SequenceId sequence, uint32_t layer, int64_t start, int64_t tokens) {
    WorkItem item = Write(sequence, layer, 0, start, tokens);
    item.access->write = false;
    item.k = item.v = nullptr;
    return item;
  }

  // A request with its pages reserved, as admission leaves it.
  std::unique_ptr<Request> Make(std::vector<WorkItem> items, MonotonicTime deadline = kNoDeadline) {
    auto request = std::make_unique<Request>();
    request->items = std::move(items);
    request->deadline = deadline;
    request->times.received = request->times.admitted = clock.Now();
    for (const WorkItem& item : request->items) {
      request->reservations.emplace_back();
      if (item.access && item.access->write) {
        if (auto reservation = cache.Reserve(*item.access); reservation.ok()) {
          request->reservations.back() = *std::move(reservation);
        }
      }
    }
    return request;
  }
  PendingRequest Submit(std::vector<WorkItem> items, MonotonicTime deadline = kNoDeadline) {
    return Submit(Make(std::move(items), deadline));
  }
  PendingRequest Submit(std::unique_ptr<Request> request) {
    auto promise = std::make_shared<std::promise<std::unique_ptr<Request>>>();
    PendingRequest pending(promise->get_future());
    request->done = [promise](std::unique_ptr<Request> r) { promise->set_value(std::move(r)); };
    pending.id = scheduler->Submit(std::move(request));
    return pending;
  }

  // Submits and waits.
  Request Run(std::vector<WorkItem> items) {
    PendingRequest pending = Submit(std::move(items));
    return std::move(pending.Wait());
  }

  // Blocks until the scheduler has handled everything posted before.
  void Sync() {
    std::promise<void> done;
    scheduler->WhenQuiet(SequenceId(), [&] { done.set_value(); });
    done.get_future().wait();
  }
  // Moves the clock and lets the scheduler notice.
  void Advance(Duration by) {
    clock.Advance(by);
    Sync();
  }
  void WaitIdle() {
    std::promise<void> idle;
    scheduler->WhenIdle([&] { idle.set_value(); });
    idle.get_future().wait();
  }

  struct OneDevice {
    explicit OneDevice(const ServerCoreOptions& options)
        : platform(options.completion),
          pool(options.pool_bytes),
          engine(platform.backend(), platform.device()) {}

    FakePlatform platform;
    PoisonedMemory pool;
    Engine engine;
  };

  FakeClock clock;
  std::deque<OneDevice> devices;
  FakePlatform& platform;  // of the first device
  KvCache cache;
  Metrics metrics;
  std::unique_ptr<Scheduler> scheduler;
  CacheId cache_id;
  SessionRef session;

 private:
  static std::deque<OneDevice> MakeDevices(const ServerCoreOptions& options) {
    std::deque<OneDevice> devices;
    for (size_t i = 0; i < options.num_devices; ++i) devices.emplace_back(options);
    return devices;
  }
  static std::vector<std::span<std::byte>> Pools(const std::deque<OneDevice>& devices) {
    std::vector<std::span<std::byte>> pools;
    pools.reserve(devices.size());
    for (const OneDevice& device : devices) pools.push_back(device.pool.bytes());
    return pools;
  }
  static KvCache::Options CacheOptions(const ServerCoreOptions& options) {
    KvCache::Options result;
    result.boot = 0x1234;
    result.default_lease = options.lease;
    result.poison_free_pages = true;
    return result;
  }

  std::vector<std::byte> tensors_ = std::vector<std::byte>(1u << 20);
};

}  // namespace attnd
