// SPDX-License-Identifier: Apache-2.0
#include "client/cli/doctor/visible_devices.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

// The position in `left` that an entry names, or -1.
int Find(std::string_view entry, const std::vector<int>& left, const std::vector<AmdGpu>& gpus) {
  if (const auto index = ToNumber(entry)) {
    return *index < left.size() ? static_cast<int>(*index) : -1;
  }
  for (size_t i = 0; i < left.size(); ++i) {
    const AmdGpu& gpu = gpus[static_cast<size_t>(left[i])];
    const std::string id = absl::StrFormat("gpu-%016x", gpu.unique_id);
    if (gpu.unique_id != 0 && absl::AsciiStrToLower(std::string(entry)) == id)
      return static_cast<int>(i);
  }
  return -1;
}

// What the list `value` of the variable `name` leaves of `left`.
std::vector<int> Filter(const std::string& name, const std::string& value,
                        const std::vector<int>& left, const std::vector<AmdGpu>& gpus,
                        std::vector<std::string>& problems) {
  std::vector<int> kept;
  for (const std::string_view entry : Words(value, ", ")) {
    const int position = Find(entry, left, gpus);
    if (position < 0) {
      // -1 is the customary way to say "none".
      if (value != "-1") {
        problems.push_back(absl::StrFormat(
            "%s=%s: \"%s\" names none of the %d GPUs (0 to %d); it and what follows is ignored",
            name, value, entry, left.size(), static_cast<int>(left.size()) - 1));
      }
      break;
    }
    const int gpu = left[static_cast<size_t>(position)];
    if (std::find(kept.begin(), kept.end(), gpu) != kept.end()) {
      problems.push_back(
          absl::StrCat(name, "=", value, ": \"", std::string(entry), "\" is named twice"));
      continue;
    }
    kept.push_back(gpu);
  }
  return kept;
}

}  // namespace

VisibleDevices ResolveVisibleDevices(const Environment& environment,
                                     const std::vector<AmdGpu>& gpus) {
  VisibleDevices result;
  const auto value_of = [&](const char* name) -> const std::string* {
    const auto found = environment.find(name);
    if (found == environment.end()) return nullptr;
    result.settings.push_back(absl::StrCat(name, "=", found->second));
    return &found->second;
  };
  const std::string* rocr = value_of("ROCR_VISIBLE_DEVICES");
  const std::string* hip = value_of("HIP_VISIBLE_DEVICES");
  const std::string* cuda = value_of("CUDA_VISIBLE_DEVICES");
  const std::string* ordinal = value_of("GPU_DEVICE_ORDINAL");

  for (const AmdGpu& gpu : gpus) result.gpus.push_back(gpu.index);
  if (rocr != nullptr) {
    result.gpus = rocr->empty()
                      ? std::vector<int>()
                      : Filter("ROCR_VISIBLE_DEVICES", *rocr, result.gpus, gpus, result.problems);
    if (hip != nullptr && !hip->empty() && *hip == *rocr && *hip != "0") {
      result.problems.emplace_back(
          "ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES are the same list, but HIP counts among "
          "the "
          "GPUs that ROCR left: set one of them");
    }
  }
  if (hip != nullptr && hip->empty()) {
    result.problems.emplace_back(
        "HIP_VISIBLE_DEVICES is empty: HIP takes that for unset, PyTorch for none; write -1 for "
        "none");
  }
  if (hip != nullptr && cuda != nullptr && !hip->empty() && *hip != *cuda) {
    result.problems.push_back(absl::StrCat("HIP_VISIBLE_DEVICES=", *hip,
                                           " and CUDA_VISIBLE_DEVICES=", *cuda,
                                           " disagree: on AMD the former counts"));
  }
  if (hip != nullptr && !hip->empty()) {
    result.gpus = Filter("HIP_VISIBLE_DEVICES", *hip, result.gpus, gpus, result.problems);
  } else if (cuda != nullptr && !cuda->empty()) {
    result.gpus = Filter("CUDA_VISIBLE_DEVICES", *cuda, result.gpus, gpus, result.problems);
  }
  if (ordinal != nullptr) {
    result.problems.emplace_back(
        "GPU_DEVICE_ORDINAL is set: AMD's manual says that HIP obeys it, its source that OpenCL "
        "alone does; say it with ROCR_VISIBLE_DEVICES");
  }
  return result;
}

}  // namespace attnd::cli
