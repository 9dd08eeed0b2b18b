// SPDX-License-Identifier: Apache-2.0
//
// Tables in plain text: a header, a rule, columns as wide as their widest cell. Not thread-safe.
//
//   Table table({"cache", "pages"});
//   table.Add({"smollm2", "128"});
//   std::cout << table.ToString();
#pragma once

#include <string>
#include <vector>

namespace attnd::cli {

class Table {
 public:
  // A heading that starts with '<' makes its column left-aligned, which the first one always is.
  explicit Table(std::vector<std::string> headings);

  // Missing cells are empty.
  void Add(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  // Each line indented by `indent` spaces and ended by a newline.
  std::string ToString(int indent = 0) const;

 private:
  std::vector<std::string> headings_;
  std::vector<bool> left_;
  std::vector<std::vector<std::string>> rows_;
};

// "name   value" lines, the names padded to one width.
class Fields {
 public:
  void Add(std::string name, std::string value);
  std::string ToString(int indent = 0) const;

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

}  // namespace attnd::cli
