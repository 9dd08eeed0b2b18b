// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/simt_host/device.h"

namespace attnd::gpu {

float ShuffleXor(float value, int mask, const char* file, int line) {
  struct Exchange {
    float in;
    int mask;
    float out;
  } mine{value, mask, 0};
  simt::MeetInWave({"ShuffleXor", file, line}, &mine, [](void* const* lanes, int wave_size) {
    for (int lane = 0; lane < wave_size; ++lane) {
      auto& to = *static_cast<Exchange*>(lanes[lane]);
      // Beyond the wave a lane gets its own value back, as from __shfl_xor.
      const int from = lane ^ to.mask;
      to.out = static_cast<Exchange*>(lanes[from < wave_size ? from : lane])->in;
    }
  });
  return mine.out;
}

bool WaveAny(bool mine, const char* file, int line) {
  bool value = mine;
  simt::MeetInWave({"WaveAny", file, line}, &value, [](void* const* lanes, int wave_size) {
    bool any = false;
    for (int lane = 0; lane < wave_size; ++lane) any |= *static_cast<bool*>(lanes[lane]);
    for (int lane = 0; lane < wave_size; ++lane) *static_cast<bool*>(lanes[lane]) = any;
  });
  return value;
}

}  // namespace attnd::gpu
