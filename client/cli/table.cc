// SPDX-License-Identifier: Apache-2.0
#include "client/cli/table.h"

#include <algorithm>
#include <utility>

namespace attnd::cli {
namespace {

// Columns on the terminal: UTF-8 continuation bytes take none.
size_t Width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string Padded(const std::string& text, size_t width, bool left) {
  const std::string padding(width - std::min(width, Width(text)), ' ');
  return left ? text + padding : padding + text;
}

void AppendLine(std::string line, std::string* out) {
  line.erase(line.find_last_not_of(' ') + 1);
  *out += line + "\n";
}

}  // namespace

Table::Table(std::vector<std::string> headings) : headings_(std::move(headings)) {
  for (std::string& heading : headings_) {
    const bool left = !heading.empty() && heading.front() == '<';
    if (left) heading.erase(0, 1);
    left_.push_back(left || left_.empty());
  }
}

void Table::Add(std::vector<std::string> cells) {
  cells.resize(headings_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::ToString(int indent) const {
  std::vector<size_t> widths;
  for (size_t column = 0; column < headings_.size(); ++column) {
    size_t width = Width(headings_[column]);
    for (const auto& row : rows_) width = std::max(width, Width(row[column]));
    widths.push_back(width);
  }
  std::string out;
  const auto add = [&](const std::vector<std::string>& cells) {
    std::string line(static_cast<size_t>(indent), ' ');
    for (size_t column = 0; column < cells.size(); ++column) {
      if (column > 0) line += "  ";
      line += Padded(cells[column], widths[column], left_[column]);
    }
    AppendLine(std::move(line), &out);
  };
  add(headings_);
  std::vector<std::string> rule;
  rule.reserve(widths.size());
  for (size_t width : widths) rule.emplace_back(width, '-');
  add(rule);
  for (const auto& row : rows_) add(row);
  return out;
}

void Fields::Add(std::string name, std::string value) {
  fields_.emplace_back(std::move(name), std::move(value));
}

std::string Fields::ToString(int indent) const {
  size_t width = 0;
  for (const auto& [name, value] : fields_) width = std::max(width, Width(name));
  std::string out;
  for (const auto& [name, value] : fields_) {
    AppendLine(
        std::string(static_cast<size_t>(indent), ' ') + Padded(name, width, true) + "  " + value,
        &out);
  }
  return out;
}

}  // namespace attnd::cli
