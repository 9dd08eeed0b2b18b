// SPDX-License-Identifier: Apache-2.0
#include "server/engine/staging.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/base/mutex.h"

namespace attnd {
namespace {

// Four classes a doubling, from 4 KiB to 1 GiB: a buffer wastes less than a quarter of itself, and
// a freed one fits the next of about its size. Larger ones, and those that rounding up would push
// past the limit, get exactly their size and are not kept.
constexpr int kMinClassBits = 12;
constexpr int kMaxClassBits = 30;
constexpr int kNumClasses = 4 * (kMaxClassBits - kMinClassBits) + 1;
constexpr int kUnpooled = -1;

constexpr uint64_t ClassCapacity(int size_class) {
  const uint64_t base = uint64_t{1} << (kMinClassBits + size_class / 4);
  return base + base / 4 * static_cast<uint64_t>(size_class % 4);
}

constexpr int ClassOf(uint64_t bytes, uint64_t limit) {
  if (bytes > ClassCapacity(kNumClasses - 1)) return kUnpooled;
  int size_class = 0;
  if (bytes > ClassCapacity(0)) {
    const int bits = std::bit_width(bytes - 1) - 1;  // 2^bits < bytes <= 2^(bits + 1)
    const uint64_t step = uint64_t{1} << (bits - 2);
    const uint64_t steps = (bytes - (uint64_t{1} << bits) + step - 1) / step;
    size_class = 4 * (bits - kMinClassBits) + static_cast<int>(steps);
  }
  return ClassCapacity(size_class) <= limit ? size_class : kUnpooled;
}
static_assert(ClassCapacity(ClassOf(4097, ~0ull)) == 5120);
static_assert(ClassCapacity(ClassOf(8192, ~0ull)) == 8192);
static_assert(ClassCapacity(ClassOf(1ull << kMaxClassBits, ~0ull)) == 1ull << kMaxClassBits);

constexpr uint64_t CapacityOf(uint64_t bytes, int size_class) {
  return size_class == kUnpooled ? bytes : ClassCapacity(size_class);
}

// What one class, and all of them together, keep for reuse: enough that a steady load allocates
// nothing, little enough that a burst's memory goes back to the system.
constexpr size_t kMaxKeptPerClass = 64;
constexpr uint64_t kMaxKeptBytes = 256u << 20;

std::byte* AllocateAligned(uint64_t bytes) {
  return static_cast<std::byte*>(
      ::operator new(bytes, std::align_val_t(kStagingAlignment), std::nothrow));
}

void FreeAligned(std::byte* data) { ::operator delete(data, std::align_val_t(kStagingAlignment)); }

}  // namespace

class StagingBuffer::Pool {
 public:
  explicit Pool(Bytes limit) : limit_(limit.value()) {}
  ~Pool() {
    for (std::vector<std::byte*>& list : free_) {
      for (std::byte* data : list) FreeAligned(data);
    }
  }

  absl::StatusOr<std::byte*> Take(uint64_t bytes, int size_class) ABSL_LOCKS_EXCLUDED(mu_) {
    const uint64_t capacity = CapacityOf(bytes, size_class);
    {
      MutexLock lock(mu_);
      if (capacity > limit_ - in_use_) return Exhausted(bytes);
      in_use_ += capacity;
      if (size_class != kUnpooled && !free_[size_class].empty()) {
        std::byte* data = free_[size_class].back();
        free_[size_class].pop_back();
        kept_ -= capacity;
        return data;
      }
    }
    std::byte* data = AllocateAligned(capacity);
    if (data != nullptr) return data;
    MutexLock lock(mu_);
    in_use_ -= capacity;
    return Exhausted(bytes);
  }

  void GiveBack(std::byte* data, uint64_t bytes, int size_class) ABSL_LOCKS_EXCLUDED(mu_) {
    const uint64_t capacity = CapacityOf(bytes, size_class);
    {
      MutexLock lock(mu_);
      in_use_ -= capacity;
      if (size_class != kUnpooled && free_[size_class].size() < kMaxKeptPerClass &&
          kept_ + capacity <= kMaxKeptBytes) {
        free_[size_class].push_back(data);
        kept_ += capacity;
        return;
      }
    }
    FreeAligned(data);
  }

  uint64_t in_use() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return in_use_;
  }
  uint64_t limit() const { return limit_; }

 private:
  absl::Status Exhausted(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "staging memory: asked for %u bytes, %u of %u are in use; they are free again when the "
        "requests that hold them are answered",
        bytes, in_use_, limit_));
  }

  const uint64_t limit_;
  mutable Mutex mu_;
  uint64_t in_use_ ABSL_GUARDED_BY(mu_) = 0;  // capacities, not what was asked for
  uint64_t kept_ ABSL_GUARDED_BY(mu_) = 0;
  std::array<std::vector<std::byte*>, kNumClasses> free_ ABSL_GUARDED_BY(mu_);
};

StagingBuffer& StagingBuffer::operator=(StagingBuffer&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = std::move(other.pool_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, Bytes(0));
    size_class_ = other.size_class_;
  }
  return *this;
}

void StagingBuffer::Release() {
  if (data_ != nullptr) pool_->GiveBack(data_, size_.value(), size_class_);
  data_ = nullptr;
  size_ = Bytes(0);
  pool_.reset();
}

Staging::Staging(Bytes limit) : pool_(std::make_shared<StagingBuffer::Pool>(limit)) {}
Staging::~Staging() = default;

absl::StatusOr<StagingBuffer> Staging::Allocate(Bytes size) {
  if (size.value() == 0) return StagingBuffer();
  const int size_class = ClassOf(size.value(), pool_->limit());
  absl::StatusOr<std::byte*> data = pool_->Take(size.value(), size_class);
  if (!data.ok()) return std::move(data).status();
  return StagingBuffer(pool_, *data, size, size_class);
}

Bytes Staging::in_use() const { return Bytes(pool_->in_use()); }
Bytes Staging::limit() const { return Bytes(pool_->limit()); }

}  // namespace attnd
