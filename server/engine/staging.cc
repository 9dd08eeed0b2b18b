// SPDX-License-Identifier: Apache-2.0
#include "server/engine/staging.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/base/mutex.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"

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

// What one class, and all of them together, keep for reuse of plain memory: enough that a steady
// load allocates nothing, little enough that a burst's memory goes back to the system.
constexpr size_t kMaxKeptPerClass = 64;
constexpr uint64_t kMaxKeptBytes = 256u << 20;

// Pinned memory costs a system call to get and, on some platforms, a wait for the whole device to
// give back: small buffers are cut from slabs of this size, and all are kept.
constexpr uint64_t kPinnedSlabBytes = 1u << 20;

}  // namespace

class StagingBuffer::Pool {
 public:
  Pool(std::vector<Device*> devices, Bytes limit)
      : devices_(std::move(devices)),
        pinned_(!devices_.front()->info().host_memory),
        limit_(limit.value()) {}

  absl::StatusOr<Buffer> Take(uint64_t bytes, int size_class, TenantIndex tenant)
      ABSL_LOCKS_EXCLUDED(mu_) {
    const uint64_t capacity = CapacityOf(bytes, size_class);
    std::vector<Buffer> dropped;  // freed without the lock
    {
      MutexLock lock(mu_);
      if (capacity > limit_ - in_use_) return Exhausted(bytes);
      ATTND_RETURN_IF_ERROR(Charge(capacity, bytes, tenant));
      in_use_ += capacity;
      if (size_class != kUnpooled && !free_[size_class].empty()) {
        Buffer memory = std::move(free_[size_class].back());
        free_[size_class].pop_back();
        kept_ -= capacity;
        return memory;
      }
      DropBeyondLimit(dropped);
    }
    dropped.clear();
    absl::StatusOr<Buffer> memory =
        CutFromSlab(size_class) ? TakeFromNewSlab(size_class) : AllocateHost(capacity);
    if (memory.ok()) return memory;
    MutexLock lock(mu_);
    in_use_ -= capacity;
    AccountOf(tenant).in_use -= capacity;
    return absl::IsResourceExhausted(memory.status()) ? Exhausted(bytes) : memory.status();
  }

  void GiveBack(Buffer memory, uint64_t bytes, int size_class, TenantIndex tenant)
      ABSL_LOCKS_EXCLUDED(mu_) {
    const uint64_t capacity = CapacityOf(bytes, size_class);
    MutexLock lock(mu_);
    in_use_ -= capacity;
    AccountOf(tenant).in_use -= capacity;
    if (size_class == kUnpooled) return;
    if (!pinned_ &&
        (free_[size_class].size() >= kMaxKeptPerClass || kept_ + capacity > kMaxKeptBytes)) {
      return;
    }
    free_[size_class].push_back(std::move(memory));
    kept_ += capacity;
  }

  uint64_t in_use() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return in_use_;
  }
  uint64_t limit() const { return limit_; }
  void SetTenantLimit(TenantIndex tenant, uint64_t limit) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    AccountOf(tenant).limit = limit;
  }

 private:
  struct Account {
    uint64_t in_use = 0, limit = 0;  // capacities
  };

  Account& AccountOf(TenantIndex tenant) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (tenant.value() >= accounts_.size()) accounts_.resize(tenant.value() + 1);
    return accounts_[tenant.value()];
  }
  absl::Status Charge(uint64_t capacity, uint64_t bytes, TenantIndex tenant)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Account& account = AccountOf(tenant);
    if (account.limit > 0 && account.in_use + capacity > account.limit) {
      return AttachErrorDetail(
          absl::ResourceExhaustedError(absl::StrFormat(
              "staging memory: asked for %u bytes, the tenant's requests hold %u of at most %u; "
              "they are free again when these are answered",
              bytes, account.in_use, account.limit)),
          {.reason = ErrorReason::kTenantLimit});
    }
    account.in_use += capacity;
    return absl::OkStatus();
  }

  absl::Status Exhausted(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "staging memory: asked for %u bytes, %u of %u are in use; they are free again when the "
        "requests that hold them are answered",
        bytes, in_use_, limit_));
  }

  bool CutFromSlab(int size_class) const {
    return pinned_ && size_class != kUnpooled && ClassCapacity(size_class) <= kPinnedSlabBytes / 2;
  }

  // From the first device that works.
  absl::StatusOr<Buffer> AllocateHost(uint64_t bytes) {
    absl::StatusOr<Buffer> memory = devices_.front()->AllocateHost(Bytes(bytes));
    for (size_t i = 1; i < devices_.size() && !memory.ok(); ++i) {
      if (absl::IsResourceExhausted(memory.status())) break;
      memory = devices_[i]->AllocateHost(Bytes(bytes));
    }
    return memory;
  }

  // One buffer for the caller, the others for whoever comes next. Slabs stay for good: they are
  // small against what large buffers take.
  absl::StatusOr<Buffer> TakeFromNewSlab(int size_class) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::StatusOr<Buffer> slab = AllocateHost(kPinnedSlabBytes);
    if (!slab.ok()) return slab;
    const uint64_t capacity = ClassCapacity(size_class);
    const auto part = [&](uint64_t offset) {
      return Buffer(
          slab->data() + offset, Bytes(capacity), [](void*, std::byte*, Bytes) {}, nullptr);
    };
    Buffer first = part(0);
    MutexLock lock(mu_);
    for (uint64_t at = capacity; at + capacity <= kPinnedSlabBytes; at += capacity) {
      free_[size_class].push_back(part(at));
      kept_ += capacity;
    }
    slabs_.push_back(*std::move(slab));
    return first;
  }

  // Pinned memory that is kept and in use stays below the limit, as far as it can be freed: other
  // classes give up what they keep, the largest first.
  void DropBeyondLimit(std::vector<Buffer>& dropped) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!pinned_) return;
    for (int size_class = kNumClasses - 1; !CutFromSlab(size_class); --size_class) {
      while (in_use_ + kept_ > limit_ && !free_[size_class].empty()) {
        dropped.push_back(std::move(free_[size_class].back()));
        free_[size_class].pop_back();
        kept_ -= ClassCapacity(size_class);
      }
    }
  }

  const std::vector<Device*> devices_;  // of Take alone: buffers come back when they may be gone
  const bool pinned_;
  const uint64_t limit_;
  mutable Mutex mu_;
  uint64_t in_use_ ABSL_GUARDED_BY(mu_) = 0;  // capacities, not what was asked for
  uint64_t kept_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Account> accounts_ ABSL_GUARDED_BY(mu_);  // by TenantIndex
  std::vector<Buffer> slabs_ ABSL_GUARDED_BY(mu_);
  std::array<std::vector<Buffer>, kNumClasses> free_ ABSL_GUARDED_BY(mu_);
};

StagingBuffer& StagingBuffer::operator=(StagingBuffer&& other) noexcept {
  if (this != &other) {
    Release();
    pool_ = std::move(other.pool_);
    memory_ = std::move(other.memory_);
    size_ = std::exchange(other.size_, Bytes(0));
    size_class_ = other.size_class_;
    tenant_ = other.tenant_;
  }
  return *this;
}

void StagingBuffer::Release() {
  if (memory_.data() != nullptr) {
    pool_->GiveBack(std::move(memory_), size_.value(), size_class_, tenant_);
  }
  size_ = Bytes(0);
  pool_.reset();
}

Staging::Staging(std::vector<Device*> devices, Bytes limit)
    : pool_(std::make_shared<StagingBuffer::Pool>(std::move(devices), limit)) {}
Staging::~Staging() = default;

absl::StatusOr<StagingBuffer> Staging::Allocate(Bytes size, TenantIndex tenant) {
  if (size.value() == 0) return StagingBuffer();
  const int size_class = ClassOf(size.value(), pool_->limit());
  ATTND_ASSIGN_OR_RETURN(Buffer memory, pool_->Take(size.value(), size_class, tenant));
  return StagingBuffer(pool_, std::move(memory), size, size_class, tenant);
}

void Staging::SetTenantLimit(TenantIndex tenant, Bytes limit) {
  pool_->SetTenantLimit(tenant, limit.value());
}

Bytes Staging::in_use() const { return Bytes(pool_->in_use()); }
Bytes Staging::limit() const { return Bytes(pool_->limit()); }

}  // namespace attnd
