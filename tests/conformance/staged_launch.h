// SPDX-License-Identifier: Apache-2.0
//
// A launch of tensors in host memory on a device that does not read it: every tensor is copied to
// memory of its own size on the device, and back after the launch. So the kernels under test work
// on device memory, and a memory checker sees where each tensor ends.
//
// Addresses keep their remainder modulo 256. One thread at a time.
//
//   StagedLaunch staged(memory, params);
//   ATTND_RETURN_IF_ERROR(Run(staged.params()));
//   staged.CopyBack();
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/attention/params.h"

namespace attnd::conformance {

// Memory of a device. Errors end the program: a test of attention can do nothing about them.
class TestMemory {
 public:
  virtual ~TestMemory() = default;
  virtual std::byte* Allocate(size_t bytes) = 0;
  virtual void Free(std::byte* data) = 0;
  // Between host and device, in either direction; done when it returns.
  virtual void Copy(std::byte* to, const std::byte* from, size_t bytes) = 0;
};

class StagedLaunch {
 public:
  // `memory` outlives it; the tensors of `params` stay until CopyBack.
  StagedLaunch(TestMemory& memory, const AttentionParams& params);
  ~StagedLaunch();
  StagedLaunch(const StagedLaunch&) = delete;
  StagedLaunch& operator=(const StagedLaunch&) = delete;

  // The same, over the copies.
  const AttentionParams& params() const { return params_; }
  // Outputs, log-sum-exps and pages go back to where they came from.
  void CopyBack();

 private:
  struct Copy {
    std::byte* host;
    std::byte* device;
    std::byte* allocation;
    size_t bytes;
    bool written;
  };

  std::byte* Stage(const void* host, size_t bytes, bool written);
  template <typename T>
  void StageRows(HeadsView<T>& view, int64_t rows, int64_t heads, int64_t dim, bool written);
  void StagePages();

  TestMemory& memory_;
  AttentionParams params_;
  std::vector<AttentionItem> items_;
  std::vector<Copy> copies_;
};

}  // namespace attnd::conformance
