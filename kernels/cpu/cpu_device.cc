// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/cpu_device.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/backend/host_memory.h"
#include "kernels/cpu/cpu_topology.h"
#include "kernels/cpu/kernels.h"

namespace attnd {
namespace {

constexpr uint64_t kAlignment = uint64_t{2} << 20;

// Copies below this many bytes are not worth waking a thread for.
constexpr uint64_t kParallelCopyBytes = uint64_t{256} << 10;

class PassedEvent final : public Event {
 public:
  bool Done() const override { return true; }
  absl::Status Wait() override { return absl::OkStatus(); }
};

class CpuStream final : public Stream {
 public:
  explicit CpuStream(ThreadPool& pool) : pool_(pool) {}

  // Copies may depend on one another, so they go in order; the rows of one copy share the pool.
  absl::Status CopyPages(std::span<const PageCopy> copies) override {
    for (const PageCopy& copy : copies) {
      const uint64_t bytes = copy.row_bytes * static_cast<uint64_t>(copy.num_layers);
      const int threads = bytes < kParallelCopyBytes ? 1 : pool_.num_threads();
      pool_.Run(copy.num_layers, threads, [&copy](int64_t layer, int) {
        const uint64_t offset = static_cast<uint64_t>(layer) * copy.layer_stride_bytes;
        std::memmove(copy.destination + offset, copy.source + offset, copy.row_bytes);
      });
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Event>> Record() override {
    return std::make_unique<PassedEvent>();
  }

 private:
  ThreadPool& pool_;
};

int ThreadsFor(const CpuDeviceOptions& options) {
  return options.num_threads > 0 ? options.num_threads : UsableCpus();
}

}  // namespace

CpuDevice::CpuDevice(const CpuDeviceOptions& options) : pool_(ThreadsFor(options)) {
  const int threads = pool_.num_threads();
  info_.name = absl::StrCat("cpu: ", threads, threads == 1 ? " thread, " : " threads, ",
                            DispatchedKernels().isa);
  info_.total_memory = options.memory_limit > Bytes(0) ? options.memory_limit : UsableMemory();
  info_.free_memory = info_.total_memory;
  info_.host_memory = true;
}

CpuDevice::~CpuDevice() = default;

absl::StatusOr<Buffer> CpuDevice::Allocate(Bytes size) {
  if (size == Bytes(0)) return absl::InvalidArgumentError("a buffer of 0 bytes");
  const auto exhausted = [&](Bytes free, const std::string& why) {
    return absl::ResourceExhaustedError(absl::StrCat("cpu memory: ", size.value(), " bytes asked, ",
                                                     free.value(), " of ",
                                                     info_.total_memory.value(), " free", why));
  };

  MutexLock lock(mu_);
  const Bytes free = info_.total_memory - allocated_;
  if (size > free) return exhausted(free, "");
  // Whole huge pages, and one more to align in; the kernel hands out address space, not memory, so
  // what alignment cuts off is given back at once.
  const uint64_t length = (size.value() + kAlignment - 1) / kAlignment * kAlignment;
  void* mapping = mmap(nullptr, length + kAlignment, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return exhausted(free, absl::StrCat(": mmap: ", strerror(errno)));
  std::byte* begin = static_cast<std::byte*>(mapping);
  const uint64_t lead = (kAlignment - reinterpret_cast<uintptr_t>(begin) % kAlignment) % kAlignment;
  std::byte* data = begin + lead;
  if (lead > 0) munmap(begin, lead);
  if (lead < kAlignment) munmap(data + length, kAlignment - lead);
  // Advice: without transparent huge pages this fails and everything still works.
  (void)madvise(data, length, MADV_HUGEPAGE);
  allocated_ += size;
  return Buffer(data, size, &CpuDevice::FreeBuffer, this);
}

void CpuDevice::FreeBuffer(void* context, std::byte* data, Bytes size) {
  CpuDevice& device = *static_cast<CpuDevice*>(context);
  munmap(data, (size.value() + kAlignment - 1) / kAlignment * kAlignment);
  MutexLock lock(device.mu_);
  device.allocated_ -= size;
}

absl::StatusOr<Buffer> CpuDevice::AllocateHost(Bytes size) { return AllocatePlainHostMemory(size); }

absl::StatusOr<std::unique_ptr<Stream>> CpuDevice::NewStream() {
  return std::make_unique<CpuStream>(pool_);
}

std::unique_ptr<CpuDevice> MakeCpuDevice(const CpuDeviceOptions& options) {
  return std::make_unique<CpuDevice>(options);
}

}  // namespace attnd
