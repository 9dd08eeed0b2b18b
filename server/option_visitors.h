// SPDX-License-Identifier: Apache-2.0
//
// What is done with every option: visitors of the one list in options.cc, which calls for each
// Number, Text, List or Flag, and Group before those that belong together.
//
// Not thread-safe; each lives for one visit.
//
//   PrintOptions print;
//   VisitOptions(options, print);
//   puts(print.text.c_str());
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/config_file.h"
#include "server/option_value.h"

namespace attnd {

using Values = std::vector<std::string>;

inline std::string QuotedList(const Values& values) {
  return absl::StrCat("[",
                      absl::StrJoin(values, ", ",
                                    [](std::string* out, const auto& value) {
                                      absl::StrAppend(out, QuotedValue(value));
                                    }),
                      "]");
}

inline bool IsAllowed(const std::string& value, const Values& allowed) {
  return allowed.empty() || std::find(allowed.begin(), allowed.end(), value) != allowed.end();
}

inline std::string AllowedText(const Values& allowed) {
  return absl::StrCat("expected one of ", absl::StrJoin(allowed, ", "));
}

// One "name = value" a line, as the config file takes it.
class PrintOptions {
 public:
  void Group(absl::string_view) {}
  template <typename T>
  void Number(absl::string_view name, const T& value, const Range<T>&, absl::string_view) {
    Line(name, FormatOption(value));
  }
  void Text(absl::string_view name, const std::string& value, const Values&, absl::string_view) {
    Line(name, QuotedValue(value));
  }
  void List(absl::string_view name, const Values& values, absl::string_view) {
    Line(name, QuotedList(values));
  }
  void Flag(absl::string_view name, bool value, absl::string_view) {
    Line(name, value ? "true" : "false");
  }

  std::string text;

 private:
  void Line(absl::string_view name, absl::string_view value) {
    absl::StrAppend(&text, name, " = ", value, "\n");
  }
};

// A config file that sets nothing: every option with its help, its limits and, behind a "#", what
// it is set to.
class DescribeOptions {
 public:
  void Group(absl::string_view name) {
    absl::StrAppend(&text, "\n# -------------------- ", name, "\n");
  }
  template <typename T>
  void Number(absl::string_view name, const T& value, const Range<T>& range,
              absl::string_view help) {
    Option(name, FormatOption(value), absl::StrCat(help, ". From ", RangeText(range), "."));
  }
  void Text(absl::string_view name, const std::string& value, const Values& allowed,
            absl::string_view help) {
    Option(name, QuotedValue(value),
           allowed.empty() ? absl::StrCat(help, ".")
                           : absl::StrCat(help, ". One of ", absl::StrJoin(allowed, ", "), "."));
  }
  void List(absl::string_view name, const Values& values, absl::string_view help) {
    Option(name, QuotedList(values), absl::StrCat(help, "."));
  }
  void Flag(absl::string_view name, bool value, absl::string_view help) {
    Option(name, value ? "true" : "false", absl::StrCat(help, "."));
  }

  std::string text;

 private:
  void Option(absl::string_view name, absl::string_view value, absl::string_view help);
};

class CheckOptions {
 public:
  void Group(absl::string_view) {}
  template <typename T>
  void Number(absl::string_view name, const T& value, const Range<T>& range, absl::string_view) {
    if (!range.Holds(value)) {
      Fail(name, FormatOption(value), absl::StrCat("expected ", RangeText(range)));
    }
  }
  void Text(absl::string_view name, const std::string& value, const Values& allowed,
            absl::string_view) {
    if (!IsAllowed(value, allowed)) Fail(name, ShownValue(value), AllowedText(allowed));
  }
  void List(absl::string_view name, const Values& values, absl::string_view) {
    if (values.empty()) Fail(name, "(none)", "expected at least one");
  }
  void Flag(absl::string_view, bool, absl::string_view) {}

  absl::Status status;

 private:
  void Fail(absl::string_view name, absl::string_view value, absl::string_view expected) {
    status.Update(absl::InvalidArgumentError(absl::StrCat("--", name, " ", value, ": ", expected)));
  }
};

// Sets the option that a line of the config file names. Afterwards `found` says whether there is
// one, `names` lists all there are, and `wrong` says what is wrong with the value.
class SetOption {
 public:
  explicit SetOption(const ConfigEntry& entry) : entry_(entry) {}

  void Group(absl::string_view) {}
  template <typename T>
  void Number(absl::string_view name, T& value, const Range<T>& range, absl::string_view) {
    if (!IsNamed(name, absl::StrCat("a ", KindText(value)))) return;
    wrong = ParseInto(entry_.values[0], range, value);
  }
  void Text(absl::string_view name, std::string& value, const Values& allowed, absl::string_view) {
    if (!IsNamed(name, "one value")) return;
    if (!IsAllowed(entry_.values[0], allowed)) {
      wrong = AllowedText(allowed);
    } else {
      value = entry_.values[0];
    }
  }
  void List(absl::string_view name, Values& values, absl::string_view) {
    names.emplace_back(name);
    if (name != entry_.key) return;
    found = true;
    if (entry_.values.empty()) wrong = "expected at least one";
    values = entry_.values;
  }
  void Flag(absl::string_view name, bool& value, absl::string_view) {
    if (!IsNamed(name, "true or false")) return;
    const std::string& text = entry_.values[0];
    if (text != "true" && text != "false") wrong = "expected true or false";
    value = text == "true";
  }

  bool found = false;
  std::string wrong;
  Values names;

 private:
  // Whether it is this option, and there is one value to look at.
  bool IsNamed(absl::string_view name, absl::string_view expected) {
    names.emplace_back(name);
    if (name != entry_.key) return false;
    found = true;
    if (entry_.is_list) wrong = absl::StrCat("a list, expected ", expected);
    return !entry_.is_list;
  }

  const ConfigEntry& entry_;
};

}  // namespace attnd
