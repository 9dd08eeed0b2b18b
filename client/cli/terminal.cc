// SPDX-License-Identifier: Apache-2.0
#include "client/cli/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <utility>

namespace attnd::cli {
namespace {

volatile std::sig_atomic_t g_signal = 0;
void OnSignal(int signal) { g_signal = signal; }

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

void Put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

struct LiveScreen::Saved {
  termios settings{};
  bool has_settings = false;
  struct sigaction actions[3] = {};
};

bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) == 1; }

TerminalSize GetTerminalSize() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
    return {};
  return {.columns = size.ws_col, .rows = size.ws_row};
}

LiveScreen::LiveScreen() : saved_(new Saved) {
  saved_->has_settings = tcgetattr(STDIN_FILENO, &saved_->settings) == 0;
  if (saved_->has_settings) {
    termios raw = saved_->settings;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  struct sigaction action = {};
  action.sa_handler = OnSignal;  // without SA_RESTART: it ends poll()
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], &action, &saved_->actions[i]);
  }
  Put("\x1b[?1049h\x1b[?25l\x1b[2J");
}

LiveScreen::~LiveScreen() {
  Put("\x1b[?25h\x1b[?1049l");
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], &saved_->actions[i], nullptr);
  }
  if (saved_->has_settings) tcsetattr(STDIN_FILENO, TCSANOW, &saved_->settings);
  delete saved_;
}

void LiveScreen::Draw(const std::string& text) {
  const TerminalSize size = GetTerminalSize();
  std::string frame = "\x1b[H";
  size_t at = 0;
  for (int row = 0; row < size.rows && at < text.size(); ++row) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    // Escape sequences take no columns; they only occur in short lines here.
    if (line.find('\x1b') == std::string::npos && line.size() > static_cast<size_t>(size.columns)) {
      line.resize(static_cast<size_t>(size.columns));
    }
    if (row > 0) frame += "\r\n";
    frame += line + "\x1b[K";
    at = end + 1;
  }
  Put(frame + "\x1b[J");
}

LiveScreen::Event LiveScreen::Wait(Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (g_signal == 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return Event::kTimeout;
    pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (poll(&input, 1, static_cast<int>(left.count())) <= 0) continue;
    char key = 0;
    if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q') return Event::kQuit;
  }
  return Event::kQuit;
}

Progress::Progress(std::string label, int64_t total)
    : label_(std::move(label)), total_(std::max<int64_t>(total, 1)), terminal_(StdoutIsTerminal()) {
  Update(0);
}

void Progress::Update(int64_t done) {
  const int64_t shown = terminal_ ? done : done * 10 / total_;
  if (shown == last_shown_) return;
  last_shown_ = shown;
  const std::string counts = std::to_string(done) + "/" + std::to_string(total_);
  if (terminal_) {
    const double fraction = static_cast<double>(done) / static_cast<double>(total_);
    Put("\r\x1b[K" + label_ + " " + Bar(fraction, 30) + " " + counts);
  } else {
    Put(label_ + " " + counts + "\n");
  }
}

void Progress::Finish(const std::string& note) {
  std::string line = label_ + ": " + note + "\n";
  if (terminal_) line.insert(0, "\r\x1b[K");
  Put(line);
}

std::string Bar(double fraction, int width) {
  const auto full =
      static_cast<size_t>(std::lround(std::clamp(fraction, 0.0, 1.0) * static_cast<double>(width)));
  std::string bar(static_cast<size_t>(width) + 2, '.');
  bar.front() = '[';
  bar.back() = ']';
  std::fill_n(bar.begin() + 1, full, '#');
  return bar;
}

}  // namespace attnd::cli
