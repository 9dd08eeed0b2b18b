// SPDX-License-Identifier: Apache-2.0
#include "server/option_visitors.h"

#include "absl/strings/str_split.h"

namespace attnd {

void DescribeOptions::Option(absl::string_view name, absl::string_view value,
                             absl::string_view help) {
  constexpr size_t kColumns = 96;
  absl::StrAppend(&text, "\n#");
  size_t columns = 1;
  for (const absl::string_view word : absl::StrSplit(help, ' ')) {
    if (columns + 1 + word.size() > kColumns) {
      absl::StrAppend(&text, "\n#");
      columns = 1;
    }
    absl::StrAppend(&text, " ", word);
    columns += 1 + word.size();
  }
  absl::StrAppend(&text, "\n#", name, " = ", value, "\n");
}

}  // namespace attnd
