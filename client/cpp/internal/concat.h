// SPDX-License-Identifier: Apache-2.0
//
// Strings put together from strings and integers.
//
// absl::StrCat would do, but where Abseil was built for C++14 it does not take std::string_view.
//
//   std::string message = Concat("layer is ", layer, "; expected 0 to ", num_layers - 1);
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

namespace attnd::client {

template <typename... Parts>
std::string Concat(const Parts&... parts) {
  std::string result;
  const auto append = [&result](const auto& part) {
    using Part = std::decay_t<decltype(part)>;
    if constexpr (std::is_arithmetic_v<Part>) {
      result += std::to_string(part);
    } else if constexpr (std::is_class_v<Part>) {
      result.append(part.data(), part.size());
    } else {
      result += std::string_view(part);
    }
  };
  (append(parts), ...);
  return result;
}

}  // namespace attnd::client
