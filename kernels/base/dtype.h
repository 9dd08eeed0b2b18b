// SPDX-License-Identifier: Apache-2.0
//
// Element types of tensors and the exact scalar conversions between them.
//
// The conversions here round to nearest even, keep NaN a NaN, and are the definition that every
// vectorised or device conversion is tested against. Pure functions, safe from any thread.
//
//   uint16_t half = FloatToHalf(0.1f);
//   float x = LoadAsFloat(DType::kF16, &half, 0);
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace attnd {

enum class DType : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2 };
inline constexpr int kNumDTypes = 3;

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

constexpr std::string_view Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
  }
  return "?";
}

constexpr float BFloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest even; a NaN stays a (quiet) NaN.
constexpr uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

constexpr float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  // Subnormal halves are exact multiples of 2^-24, normal numbers in fp32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

// Round to nearest even; overflow gives infinity; a NaN stays a (quiet) NaN.
constexpr uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 2^16 or beyond
  if (magnitude < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 aligns the mantissa to multiples of 2^-24 and
    // lets the FPU do the rounding.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>(rounded >> 13);
}

// Element `index` of an array of `dtype` at `data`, which need not be aligned.
inline float LoadAsFloat(DType dtype, const void* data, int64_t index) {
  const char* bytes = static_cast<const char*>(data) + index * static_cast<int64_t>(SizeOf(dtype));
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return dtype == DType::kF16 ? HalfToFloat(half) : BFloat16ToFloat(half);
}

inline void StoreFromFloat(DType dtype, void* data, int64_t index, float value) {
  char* bytes = static_cast<char*>(data) + index * static_cast<int64_t>(SizeOf(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(bytes, &value, sizeof(value));
    return;
  }
  const uint16_t half = dtype == DType::kF16 ? FloatToHalf(value) : FloatToBFloat16(value);
  std::memcpy(bytes, &half, sizeof(half));
}

}  // namespace attnd
