// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/bf16_unit.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace attnd {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// State that the operating system saves for us: register XCR0.
uint64_t EnabledState() {
  uint32_t low = 0, high = 0;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Intel SDM volume 1, 13.1, and Linux's Documentation/arch/x86/xstate.rst.
constexpr uint64_t kAvx512State = 0xe6, kTileState = 0x60000;
constexpr int kTileData = 18, kRequestPermission = 0x1023;

Bf16Unit Detect() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(1, 0, &a, &b, &c, &d) == 0) return Bf16Unit::kNone;
  constexpr uint32_t kOsXsave = 1u << 27;
  if ((c & kOsXsave) == 0) return Bf16Unit::kNone;
  const uint64_t state = EnabledState();
  if ((state & kAvx512State) != kAvx512State) return Bf16Unit::kNone;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0) return Bf16Unit::kNone;
  constexpr uint32_t kAvx512Bf16 = 1u << 5;
  if ((a & kAvx512Bf16) == 0) return Bf16Unit::kNone;
  __get_cpuid_count(7, 0, &a, &b, &c, &d);
  constexpr uint32_t kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return Bf16Unit::kDot;
  // CPUs that have tiles neglect vdpbf16ps: 108 GFLOP/s a core measured, 236 by fp32's vfmadd231ps.
  const bool allowed = (state & kTileState) == kTileState &&
                       syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed ? Bf16Unit::kTile : Bf16Unit::kNone;
}
#else
Bf16Unit Detect() { return Bf16Unit::kNone; }
#endif

}  // namespace

const char* Name(Bf16Unit unit) {
  switch (unit) {
    case Bf16Unit::kNone:
      return "none";
    case Bf16Unit::kDot:
      return "avx512-bf16";
    case Bf16Unit::kTile:
      return "amx-bf16";
  }
  return "?";
}

Bf16Unit DetectBf16Unit() {
  static const Bf16Unit unit = Detect();
  return unit;
}

}  // namespace attnd
