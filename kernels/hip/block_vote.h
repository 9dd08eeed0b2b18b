// SPDX-License-Identifier: Apache-2.0
//
// A barrier at which the lanes of a block vote.
//
//   BlockVote vote;
//   if (vote.Any(mine)) ...  // every lane of the block calls it, and goes the same way
#pragma once

#include "kernels/hip/gpu.h"

namespace attnd::gpu {

#if ATTND_DEVICE_CODE

#if ATTND_GPU_AMD
// __syncthreads_or knows blocks of three dimensions, meets more often and takes registers for both.
// Here a vote that nobody wins costs a read. Two flags take turns: a lane may cast its next vote
// while another one still reads the outcome of this one.
class BlockVote {
 public:
  // All lanes of the block make one together.
  ATTND_ACCESSOR BlockVote() {
    if (threadIdx.x == 0) Flags()[0] = Flags()[1] = 0;
    BlockBarrier();
  }
  // BlockBarrier(), and whether any lane of the block passed true.
  ATTND_ACCESSOR bool Any(bool mine) {
    uint32_t* flag = Flags() + turn_;
    turn_ ^= 1;
    if (mine) *flag = 1;
    BlockBarrier();
    const bool any = __builtin_amdgcn_readfirstlane(static_cast<int>(*flag)) != 0;
    if (any) {
      BlockBarrier();
      if (threadIdx.x == 0) *flag = 0;
    }
    return any;
  }

 private:
  ATTND_MEMBER uint32_t* Flags() {
    __shared__ uint32_t flags[2];
    return flags;
  }

  int turn_ = 0;
};
#else
class BlockVote {
 public:
  ATTND_ACCESSOR bool Any(bool mine) {
#if ATTND_GPU_NVIDIA
    return __syncthreads_or(mine) != 0;
#else
    return BlockBarrierOr(mine);
#endif
  }
};
#endif

#endif  // ATTND_DEVICE_CODE

}  // namespace attnd::gpu
