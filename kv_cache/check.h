// SPDX-License-Identifier: Apache-2.0
//
// A check of an invariant that stays on in Release: two owners of one page would mix up two
// clients' keys and values, so the daemon stops instead. Never for what a client sends.
//
//   ATTND_CHECK(page.refcount > 0, "page freed twice");
#pragma once

#include <cstdio>
#include <cstdlib>

namespace attnd {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition,
                                     const char* what) {
  std::fprintf(stderr, "%s:%d: check failed: %s (%s)\n", file, line, condition, what);
  std::abort();
}

}  // namespace attnd

#define ATTND_CHECK(condition, what)                   \
  (static_cast<bool>(condition) ? static_cast<void>(0) \
                                : ::attnd::CheckFailed(__FILE__, __LINE__, #condition, (what)))
