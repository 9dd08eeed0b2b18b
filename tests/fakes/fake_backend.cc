// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fake_backend.h"

#include <cstring>
#include <new>
#include <utility>

#include "kernels/backend/host_memory.h"

namespace attnd {
namespace {

// A status of its own for each thread that gets one; see CONTRIBUTING on sanitizers.
absl::Status Copy(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}

}  // namespace

class FakeEvent final : public Event {
 public:
  FakeEvent(FakePlatform& platform, std::shared_ptr<FakePlatform::EventState> state)
      : platform_(platform), state_(std::move(state)) {}
  bool Done() const override {
    const std::lock_guard lock(platform_.mu_);
    return state_->done;
  }
  absl::Status Wait() override {
    std::unique_lock lock(platform_.mu_);
    platform_.changed_.wait(lock, [&] { return state_->done; });
    return Copy(state_->status);
  }

 private:
  FakePlatform& platform_;
  const std::shared_ptr<FakePlatform::EventState> state_;
};

class FakeStream final : public Stream {
 public:
  explicit FakeStream(FakePlatform& platform) : platform_(platform) {}

  absl::Status CopyPages(std::span<const PageCopy> copies) override {
    {
      const std::lock_guard lock(platform_.mu_);
      if (!platform_.copy_status_.ok()) return Copy(platform_.copy_status_);
      if (platform_.recording_) {
        platform_.ops_.push_back({.kind = FakeStreamOp::Kind::kCopyPages,
                                  .copies = {copies.begin(), copies.end()},
                                  .key = {},
                                  .items = {}});
      }
    }
    for (const PageCopy& copy : copies) {
      for (int32_t layer = 0; layer < copy.num_layers; ++layer) {
        const uint64_t offset = static_cast<uint64_t>(layer) * copy.layer_stride_bytes;
        std::memcpy(copy.destination + offset, copy.source + offset, copy.row_bytes);
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Event>> Record() override {
    auto state = std::make_shared<FakePlatform::EventState>();
    {
      const std::lock_guard lock(platform_.mu_);
      state->done = platform_.completion_ == FakePlatform::Completion::kInline;
      if (!state->done) platform_.pending_.push_back(state);
      ++platform_.launches_;
      if (platform_.recording_) {
        platform_.ops_.push_back(
            {.kind = FakeStreamOp::Kind::kRecord, .copies = {}, .key = {}, .items = {}});
      }
    }
    platform_.changed_.notify_all();
    return std::make_unique<FakeEvent>(platform_, std::move(state));
  }

 private:
  FakePlatform& platform_;
};

class FakeDevice final : public Device {
 public:
  explicit FakeDevice(FakePlatform& platform) : platform_(platform) {
    info_.name = "fake";
    info_.total_memory = Bytes(1ull << 40);
    info_.host_memory = true;
  }
  const DeviceInfo& info() const override { return info_; }
  absl::StatusOr<Buffer> Allocate(Bytes size) override {
    constexpr std::align_val_t kAlignment{2u << 20};
    auto* data = static_cast<std::byte*>(::operator new(size.value(), kAlignment));
    std::memset(data, 0, size.value());
    return Buffer(
        data, size, [](void*, std::byte* freed, Bytes) { ::operator delete(freed, kAlignment); },
        nullptr);
  }
  absl::StatusOr<Buffer> AllocateHost(Bytes size) override { return AllocatePlainHostMemory(size); }
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override {
    return std::make_unique<FakeStream>(platform_);
  }

 private:
  FakePlatform& platform_;
  DeviceInfo info_;
};

class FakeBackend final : public AttentionBackend {
 public:
  explicit FakeBackend(FakePlatform& platform) : platform_(platform) {
    capabilities_.backend = "fake";
    capabilities_.isa = "none";
    for (DType q : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (DType kv : {DType::kF32, DType::kF16, DType::kBF16}) {
        capabilities_.dtypes.emplace_back(q, kv);
      }
    }
    capabilities_.any_head_dims = true;
    capabilities_.max_head_dim = 256;
    capabilities_.max_page_size_tokens = 1024;
    for (Feature feature : kAllFeatures) capabilities_.features.Add(feature);
  }
  const Capabilities& capabilities() const override { return capabilities_; }
  absl::Status Supports(const KernelKey& key) const override {
    return CheckSupported(capabilities_, key);
  }
  std::unique_ptr<LaunchPlan> NewPlan() const override { return std::make_unique<LaunchPlan>(); }
  absl::Status Plan(const AttentionParams&, LaunchPlan&) const override {
    const std::lock_guard lock(platform_.mu_);
    return Copy(platform_.plan_status_);
  }
  absl::Status Launch(Stream&, const LaunchPlan&, const AttentionParams& params) override {
    {
      const std::lock_guard lock(platform_.mu_);
      if (!platform_.launch_status_.ok()) return Copy(platform_.launch_status_);
      if (platform_.recording_) {
        platform_.ops_.push_back({.kind = FakeStreamOp::Kind::kLaunch,
                                  .copies = {},
                                  .key = params.key,
                                  .num_query_heads = params.num_query_heads,
                                  .num_kv_heads = params.num_kv_heads,
                                  .items = {params.items.begin(), params.items.end()}});
      }
    }
    if (platform_.on_launch_) platform_.on_launch_(params);
    return absl::OkStatus();
  }

 private:
  FakePlatform& platform_;
  Capabilities capabilities_;
};

FakePlatform::FakePlatform(Completion completion)
    : completion_(completion),
      owned_backend_(std::make_unique<FakeBackend>(*this)),
      owned_device_(std::make_unique<FakeDevice>(*this)),
      backend_(owned_backend_.get()),
      device_(owned_device_.get()) {}

FakePlatform::~FakePlatform() = default;

Platform FakePlatform::TakePlatform() {
  Platform platform;
  platform.devices.push_back(
      {.device = std::move(owned_device_), .backend = std::move(owned_backend_)});
  return platform;
}

void FakePlatform::FailPlan(absl::Status status) {
  const std::lock_guard lock(mu_);
  plan_status_ = std::move(status);
}

void FakePlatform::FailLaunch(absl::Status status) {
  const std::lock_guard lock(mu_);
  launch_status_ = std::move(status);
}

void FakePlatform::FailCopy(absl::Status status) {
  const std::lock_guard lock(mu_);
  copy_status_ = std::move(status);
}

void FakePlatform::OnLaunch(std::function<void(const AttentionParams&)> hook) {
  on_launch_ = std::move(hook);
}

void FakePlatform::StopRecording() {
  const std::lock_guard lock(mu_);
  recording_ = false;
}

int FakePlatform::pending() const {
  const std::lock_guard lock(mu_);
  return static_cast<int>(pending_.size());
}

void FakePlatform::CompleteNext(absl::Status status) {
  {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return !pending_.empty(); });
    pending_.front()->status = std::move(status);
    pending_.front()->done = true;
    pending_.pop_front();
  }
  changed_.notify_all();
}

void FakePlatform::CompleteAll() {
  {
    const std::lock_guard lock(mu_);
    completion_ = Completion::kInline;
    for (const std::shared_ptr<EventState>& state : pending_) state->done = true;
    pending_.clear();
  }
  changed_.notify_all();
}

void FakePlatform::WaitForLaunches(int64_t n) const {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [&] { return launches_ >= n; });
}

int64_t FakePlatform::launches() const {
  const std::lock_guard lock(mu_);
  return launches_;
}

std::vector<FakeStreamOp> FakePlatform::ops() const {
  const std::lock_guard lock(mu_);
  return ops_;
}

void FakePlatform::ClearOps() {
  const std::lock_guard lock(mu_);
  ops_.clear();
}

}  // namespace attnd
