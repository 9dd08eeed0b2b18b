// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/upload_ring.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/hip/launch.h"

namespace attnd {
namespace {

// What a kernel moves; a copy engine the rest.
constexpr Bytes kKernelBytes = Bytes(1 << 20);

}  // namespace

absl::StatusOr<std::unique_ptr<UploadRing>> UploadRing::Make(HipDevice& device,
                                                             gpu::UploadFunction kernel, int blocks,
                                                             Bytes initial_size) {
  std::unique_ptr<UploadRing> ring(new UploadRing(device, kernel));
  ATTND_ASSIGN_OR_RETURN(ring->stream_, device.NewStream());
  ring->blocks_.resize(static_cast<size_t>(blocks));
  for (Block& block : ring->blocks_) ATTND_RETURN_IF_ERROR(ring->Grow(block, initial_size));
  return ring;
}

absl::Status UploadRing::Grow(Block& block, Bytes size) {
  block.host = Buffer();
  block.device = Buffer();
  ATTND_ASSIGN_OR_RETURN(block.host, device_.AllocateHost(size));
  ATTND_ASSIGN_OR_RETURN(block.device, device_.Allocate(size));
  return absl::OkStatus();
}

absl::StatusOr<UploadRing::Block*> UploadRing::Take(Bytes bytes) {
  Block& block = blocks_[next_];
  next_ = (next_ + 1) % blocks_.size();
  if (block.in_use != nullptr) {
    ATTND_RETURN_IF_ERROR(block.in_use->Wait());
    block.in_use.reset();
  }
  if (bytes > block.host.size()) {
    ATTND_RETURN_IF_ERROR(
        Grow(block, Bytes(std::max(bytes.value(), 2 * block.host.size().value()))));
  }
  return &block;
}

absl::Status UploadRing::Send(Block& block, Bytes size, HipStream& stream) {
  if (size == Bytes(0)) return absl::OkStatus();
  ATTND_ASSIGN_OR_RETURN(const bool busy, stream.IsBusy());
  if (!busy) return Copy(block, size, stream);
  auto& own = static_cast<HipStream&>(*stream_);
  ATTND_RETURN_IF_ERROR(Copy(block, size, own));
  ATTND_ASSIGN_OR_RETURN(block.sent, own.Record());
  return stream.WaitFor(*block.sent);
}

absl::Status UploadRing::Copy(const Block& block, Bytes size, HipStream& stream) {
  if (size > kKernelBytes) {
    ATTND_RETURN_IF_HIP_ERROR(stream.fence(),
                              hipMemcpyAsync(block.device.data(), block.host.data(), size.value(),
                                             hipMemcpyHostToDevice, stream.handle()));
    return absl::OkStatus();
  }
  const gpu::UploadArgs args{.from = block.host.data(),
                             .to = block.device.data(),
                             .bytes = static_cast<int64_t>(size.value())};
  constexpr size_t kBytesOfBlock = size_t{16} * gpu::kUploadThreads;
  const auto blocks = static_cast<unsigned>((size.value() + kBytesOfBlock - 1) / kBytesOfBlock);
  ATTND_RETURN_IF_HIP_ERROR(stream.fence(), gpu::LaunchKernel(kernel_, blocks, gpu::kUploadThreads,
                                                              0, stream.handle(), args));
  return absl::OkStatus();
}

absl::Status UploadRing::Done(Block& block, HipStream& stream) {
  ATTND_ASSIGN_OR_RETURN(block.in_use, stream.Record());
  return absl::OkStatus();
}

}  // namespace attnd
