// SPDX-License-Identifier: Apache-2.0
//
// The terminal: whether there is one, a screen that is redrawn in place, a progress line.
//
// Not thread-safe. A LiveScreen puts the terminal back as it was when it is destroyed, and on
// SIGINT, SIGTERM and SIGHUP its Wait returns kQuit, so that it is.
#pragma once

#include <string>

#include "kernels/base/clock.h"

namespace attnd::cli {

bool StdoutIsTerminal();
// Of the terminal, or 80 x 24 where there is none.
struct TerminalSize {
  int columns = 80;
  int rows = 24;
};
TerminalSize GetTerminalSize();

// The full screen: no scrollback is touched, the cursor is hidden, keys are read without echo.
class LiveScreen {
 public:
  LiveScreen();
  ~LiveScreen();
  LiveScreen(const LiveScreen&) = delete;
  LiveScreen& operator=(const LiveScreen&) = delete;

  // Shows the text from the top left corner; what does not fit is cut off.
  void Draw(const std::string& text);
  enum class Event { kTimeout, kQuit };
  // Until `q`, a signal to end, or the time is up.
  Event Wait(Duration timeout);

 private:
  struct Saved;
  Saved* saved_;
};

// One line that is rewritten: "label [#####     ] 12/64". On something other than a terminal, only
// whole tenths are printed, a line each.
class Progress {
 public:
  Progress(std::string label, int64_t total);
  void Update(int64_t done);
  void Finish(const std::string& note);

 private:
  std::string label_;
  int64_t total_;
  int64_t last_shown_ = -1;
  bool terminal_;
};

// `fraction` of `width` cells, in ASCII: "[####......]".
std::string Bar(double fraction, int width);

}  // namespace attnd::cli
