// SPDX-License-Identifier: Apache-2.0
//
// What the host sends to the device with each launch: small structs, block tables, options.
//
// A ring of blocks, each pinned on the host with its twin on the device; a block is written, copied
// in one piece, and free again when the launch that uses it has ended. Where the launch has to wait
// for others, its block is copied meanwhile. Blocks grow to the largest launch they have held. One
// thread at a time.
//
//   ATTND_ASSIGN_OR_RETURN(UploadRing::Block * block, ring.Take(bytes));
//   UploadWriter writer(*block);
//   const gpu::Item* items = writer.Append(std::span<const gpu::Item>(...));   // device address
//   ATTND_RETURN_IF_ERROR(ring.Send(*block, writer.size(), stream));
//   // ... launches ...
//   ATTND_RETURN_IF_ERROR(ring.Done(*block, stream));
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend/device.h"
#include "kernels/hip/hip_device.h"
#include "kernels/hip/hip_stream.h"
#include "kernels/hip/kernel_table.h"

namespace attnd {

class UploadRing {
 public:
  struct Block {
    Buffer host;
    Buffer device;
    std::unique_ptr<Event> sent;    // where it went by the ring's own stream
    std::unique_ptr<Event> in_use;  // of the launch that reads it
  };

  // `device` outlives the ring. No launch may still run when it goes.
  static absl::StatusOr<std::unique_ptr<UploadRing>> Make(HipDevice& device,
                                                          gpu::UploadFunction kernel, int blocks,
                                                          Bytes initial_size);

  // The next block, of at least `bytes`, once its last launch has ended.
  absl::StatusOr<Block*> Take(Bytes bytes);
  // To the device, before what is queued on `stream` from now on.
  absl::Status Send(Block& block, Bytes size, HipStream& stream);
  absl::Status Done(Block& block, HipStream& stream);

 private:
  UploadRing(HipDevice& device, gpu::UploadFunction kernel) : device_(device), kernel_(kernel) {}
  absl::Status Grow(Block& block, Bytes size);
  absl::Status Copy(const Block& block, Bytes size, HipStream& stream);

  HipDevice& device_;
  const gpu::UploadFunction kernel_;
  std::unique_ptr<Stream> stream_;
  std::vector<Block> blocks_;
  size_t next_ = 0;
};

// Fills a block from its start; each piece is aligned to 16 bytes.
class UploadWriter {
 public:
  explicit UploadWriter(const UploadRing::Block& block)
      : host_(block.host.data()), device_(block.device.data()) {}

  static constexpr size_t Padded(size_t bytes) { return (bytes + 15) / 16 * 16; }

  // Room for `count` values: their place on the host. DeviceAddress() is that of the next piece.
  template <class T>
  std::span<T> Reserve(size_t count) {
    std::span<T> values(reinterpret_cast<T*>(host_ + size_), count);
    size_ += Padded(count * sizeof(T));
    return values;
  }
  template <class T>
  T* DeviceAddress() const {
    return reinterpret_cast<T*>(device_ + size_);
  }
  template <class T>
  const T* Append(std::span<const T> values) {
    const T* address = DeviceAddress<T>();
    if (!values.empty()) std::memcpy(host_ + size_, values.data(), values.size_bytes());
    size_ += Padded(values.size_bytes());
    return address;
  }
  Bytes size() const { return Bytes(size_); }

 private:
  std::byte* host_;
  std::byte* device_;
  size_t size_ = 0;
};

}  // namespace attnd
