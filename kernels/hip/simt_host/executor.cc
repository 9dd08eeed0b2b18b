// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/simt_host/executor.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/hip/simt_host/async_copies.h"
#include "kernels/hip/simt_host/device.h"
#include "kernels/hip/simt_host/fiber.h"
#include "kernels/hip/simt_host/sanitizers.h"

// NOLINTNEXTLINE(readability-identifier-naming): HIP's names
attnd::simt::Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace attnd::simt {

std::byte* lds_of_block = nullptr;
int wave_size_of_launch = 0;

namespace {

constexpr size_t kLdsAlignment = 128;
constexpr size_t kLdsRedZone = 256;  // on each side

// What ThreadSanitizer is told: everything before Publish(x) happens before what follows a later
// Observe(x). Nothing else orders two lanes.
void Publish([[maybe_unused]] void* meeting_point) {
#if ATTND_SIMT_TSAN
  __tsan_release(meeting_point);
#endif
}
void Observe([[maybe_unused]] void* meeting_point) {
#if ATTND_SIMT_TSAN
  __tsan_acquire(meeting_point);
#endif
}

// Where lanes meet again and again. Two places in turn: one lane may be on its way into the next
// meeting while another has not yet left the last one, and must not see what the first did since.
class Meeting {
 public:
  void Arrive() { Publish(&places_[number_ % 2]); }
  // By the last to arrive.
  void Close() {
    Observe(&places_[number_ % 2]);
    ++number_;
  }
  void Leave() { Observe(&places_[(number_ - 1) % 2]); }
  // By the thread, when lanes will never leave or close it.
  void GiveUp() {
    for (char& place : places_) Observe(&place);
  }

 private:
  unsigned number_ = 0;
  std::array<char, 2> places_{};
};

// Equal literals may have an address in each source.
bool SameText(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

bool SameSite(const Site& a, const Site& b) {
  return a.line == b.line && SameText(a.operation, b.operation) && SameText(a.file, b.file);
}

struct Wave;

struct Lane {
  Fiber fiber;
  unsigned index = 0;  // in its block
  Wave* wave = nullptr;
  int in_wave = 0;             // its number in the wave
  Lane* next = nullptr;        // who runs after it, round and round through the wave
  const Site* site = nullptr;  // where it waits; nullptr: it ended
  AsyncCopies copies;
};

// A wave works in rounds: in each, every lane runs until it arrives somewhere or ends.
struct Wave {
  Lane* lane = nullptr;  // the one that runs, or goes on when the wave does
  int arrived = 0;
  int ended = 0;
  const Site* site = nullptr;  // of the first to arrive in this round
  bool diverged = false;       // somebody arrived elsewhere
  bool at_barrier = false;
  Meeting meeting;
  std::array<void*, kMaxWaveSize> arguments{};
};

class Executor {
 public:
  static Executor& Get() {
    static Executor executor;
    return executor;
  }

  std::string Run(const GridLaunch& launch);

  void MeetInWave(const Site& site, void* argument, void (*complete)(void* const*, int));
  bool MeetInBlock(const Site& site, bool mine);
  void CheckLds(const Site& site, const void* data, size_t size, size_t alignment);
  [[noreturn]] void FailAt(const Site& site, const char* what);
  Lane& lane() { return *lane_; }

 private:
  Executor();
  ~Executor();

  static void LaneBody(void* executor);
  void RunBlock(unsigned block);
  void EndLane();
  // Notes that the running lane is at `site` and returns whether it is the last one of its round;
  // if not, all others ran up to theirs before this returns.
  bool ArriveLast(Wave& wave, const Site& site, void* argument);
  void FinishRound(Wave& wave);
  void RunNextLane();
  void RunNextWave();
  void ReleaseBarrier();
  void SwitchTo(Lane& next);
  // Gives up the block; report_ says why.
  [[noreturn]] void Abandon();
  std::string DescribeLanes(const Wave& wave) const;
  std::string DescribeWaves() const;
  std::string Place() const;
  void SetLdsSize(size_t bytes);

  const GridLaunch* launch_ = nullptr;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Lane>> lanes_;  // grows, so that fibers are kept between launches
  std::vector<Wave> waves_;
  std::vector<int> ready_waves_;
  int waves_ended_ = 0;
  Meeting barrier_;
  bool barrier_value_ = false;   // of the barrier that waves arrive at
  bool barrier_result_ = false;  // of the one that was released last
  Fiber thread_;
  Lane* lane_ = nullptr;  // the one that runs
  std::string report_;
  std::byte* lds_memory_;
  std::vector<std::byte> nan_bytes_;
};

Executor::Executor()
    : lds_memory_(static_cast<std::byte*>(
          ::operator new(kMaxLdsBytes + 2 * kLdsRedZone, std::align_val_t(kLdsAlignment)))),
      nan_bytes_(kMaxLdsBytes + kLdsRedZone) {
  for (size_t i = 0; i < nan_bytes_.size(); i += 2) {
    nan_bytes_[i] = std::byte{0xff};
    nan_bytes_[i + 1] = std::byte{0x7f};
  }
  lds_of_block = lds_memory_ + kLdsRedZone;
}

Executor::~Executor() {
  for (const auto& lane : lanes_) DestroyFiber(lane->fiber);
  AdoptThread(thread_);
#if ATTND_SIMT_ASAN
  __asan_unpoison_memory_region(lds_memory_, kMaxLdsBytes + 2 * kLdsRedZone);
#endif
  ::operator delete(lds_memory_, std::align_val_t(kLdsAlignment));
}

void Executor::SetLdsSize(size_t bytes) {
#if ATTND_SIMT_ASAN
  __asan_poison_memory_region(lds_memory_, kMaxLdsBytes + 2 * kLdsRedZone);
  __asan_unpoison_memory_region(lds_of_block, bytes);
#else
  static_cast<void>(bytes);
#endif
}

std::string Executor::Run(const GridLaunch& launch) {
  launch_ = &launch;
  random_.seed(launch.seed);
  report_.clear();
  wave_size_of_launch = launch.wave_size;
  blockDim = {launch.block, 1, 1};
  gridDim = {launch.grid, 1, 1};
  while (lanes_.size() < launch.block) {
    auto lane = std::make_unique<Lane>();
    lane->index = static_cast<unsigned>(lanes_.size());
    CreateFiber(lane->fiber, lanes_.size(), &LaneBody, this);
    lanes_.push_back(std::move(lane));
  }
  waves_.resize(launch.block / launch.wave_size);
  for (size_t w = 0; w < waves_.size(); ++w) {
    std::vector<Lane*> order;
    for (int i = 0; i < launch.wave_size; ++i) {
      Lane& lane = *lanes_[w * launch.wave_size + i];
      lane.wave = &waves_[w];
      lane.in_wave = i;
      order.push_back(&lane);
    }
    std::shuffle(order.begin(), order.end(), random_);
    for (size_t i = 0; i < order.size(); ++i) order[i]->next = order[(i + 1) % order.size()];
  }
  std::vector<unsigned> blocks(launch.grid);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), random_);

  SetLdsSize(launch.lds_bytes);
  AdoptThread(thread_);
  for (const unsigned block : blocks) {
    RunBlock(block);
    if (!report_.empty()) break;
  }
  if (!report_.empty()) {
    // Lanes stopped in the middle of the kernel, each in a meeting of its wave.
    for (Wave& wave : waves_) wave.meeting.GiveUp();
    for (unsigned i = 0; i < launch.block; ++i) {
      CreateFiber(lanes_[i]->fiber, i, &LaneBody, this);
    }
  }
  return report_;
}

void Executor::RunBlock(unsigned block) {
  blockIdx = {block, 0, 0};
#if !ATTND_SIMT_ASAN
  std::byte* const end = lds_of_block + launch_->lds_bytes;
  std::memcpy(end, nan_bytes_.data(), kLdsRedZone);
#endif
  std::memcpy(lds_of_block, nan_bytes_.data(), launch_->lds_bytes);
  for (size_t w = 0; w < waves_.size(); ++w) {
    waves_[w] = Wave{};
    waves_[w].lane = lanes_[w * launch_->wave_size].get();
    ready_waves_.push_back(static_cast<int>(w));
  }
  std::shuffle(ready_waves_.begin(), ready_waves_.end(), random_);
  for (unsigned i = 0; i < launch_->block; ++i) {
    lanes_[i]->copies.Clear();
  }
  waves_ended_ = 0;
  barrier_value_ = false;
  lane_ = nullptr;
  Publish(this);
  RunNextWave();
  Observe(this);
  ready_waves_.clear();
#if !ATTND_SIMT_ASAN
  if (report_.empty() && std::memcmp(end, nan_bytes_.data(), kLdsRedZone) != 0) {
    report_ = Place() + ": something was written behind the end of its LDS";
  }
#endif
}

void Executor::LaneBody(void* executor) {
  auto* const self = static_cast<Executor*>(executor);
  for (;;) {
    Observe(self);
    self->launch_->run_lane();
    Publish(self);
    self->EndLane();
  }
}

void Executor::EndLane() {
  lane_->site = nullptr;
  Wave& wave = *lane_->wave;
  ++wave.ended;
  if (wave.arrived + wave.ended < launch_->wave_size) {
    RunNextLane();
  } else {
    FinishRound(wave);
    ++waves_ended_;
    RunNextWave();
  }
  // Here the next block begins for this lane.
}

bool Executor::ArriveLast(Wave& wave, const Site& site, void* argument) {
  lane_->site = &site;
  wave.arguments[lane_->in_wave] = argument;
  if (wave.arrived++ == 0) {
    wave.site = &site;
  } else {
    wave.diverged |= !SameSite(site, *wave.site);
  }
  wave.meeting.Arrive();
  if (wave.arrived + wave.ended == launch_->wave_size) {
    FinishRound(wave);
    return true;
  }
  RunNextLane();
  wave.meeting.Leave();
  return false;
}

// All lanes of the wave must have done the same: ended, or arrived at one place.
void Executor::FinishRound(Wave& wave) {
  if ((wave.arrived > 0 && wave.ended > 0) || wave.diverged) {
    const auto number = std::to_string(&wave - waves_.data());
    report_ = Place() + ", wave " + number + ": its lanes diverge: " + DescribeLanes(wave);
  }
  if (!report_.empty()) Abandon();
  wave.meeting.Close();
  wave.arrived = 0;
}

void Executor::RunNextLane() {
  lane_->wave->lane = lane_->next;
  SwitchTo(*lane_->next);
}

void Executor::RunNextWave() {
  if (ready_waves_.empty()) {
    if (waves_ended_ == static_cast<int>(waves_.size())) {
      Lane& last = *lane_;
      lane_ = nullptr;
      Switch(last.fiber, thread_);
      return;
    }
    ReleaseBarrier();
  }
  Wave& wave = waves_[ready_waves_.back()];
  ready_waves_.pop_back();
  SwitchTo(*wave.lane);
}

void Executor::ReleaseBarrier() {
  bool same = waves_ended_ == 0;
  for (const Wave& wave : waves_) {
    same = same && SameText(wave.site->operation, waves_[0].site->operation);
  }
  if (!same) {
    report_ = Place() + ": its waves do not meet: " + DescribeWaves();
    Abandon();
  }
  barrier_.Close();
  barrier_result_ = barrier_value_;
  barrier_value_ = false;
  for (size_t w = 0; w < waves_.size(); ++w) {
    waves_[w].at_barrier = false;
    ready_waves_.push_back(static_cast<int>(w));
  }
  std::shuffle(ready_waves_.begin(), ready_waves_.end(), random_);
}

void Executor::SwitchTo(Lane& next) {
  Lane* const previous = lane_;
  if (previous == &next) return;
  lane_ = &next;
  threadIdx = {next.index, 0, 0};
  Switch(previous == nullptr ? thread_ : previous->fiber, next.fiber);
}

void Executor::MeetInWave(const Site& site, void* argument, void (*complete)(void* const*, int)) {
  Wave& wave = *lane_->wave;
  // The last one goes on at once; the others do when it arrives at the next place.
  if (ArriveLast(wave, site, argument)) complete(wave.arguments.data(), launch_->wave_size);
}

bool Executor::MeetInBlock(const Site& site, bool mine) {
  Wave& wave = *lane_->wave;
  barrier_value_ |= mine;
  barrier_.Arrive();
  if (ArriveLast(wave, site, nullptr)) {
    wave.at_barrier = true;
    RunNextWave();
  }
  barrier_.Leave();
  return barrier_result_;
}

void Executor::CheckLds(const Site& site, const void* data, size_t size, size_t alignment) {
  const auto begin = reinterpret_cast<uintptr_t>(lds_of_block);
  const auto address = reinterpret_cast<uintptr_t>(data);
  const auto offset = static_cast<ptrdiff_t>(address - begin);
  if (address < begin || address + size > begin + launch_->lds_bytes) {
    Fail(site, "bytes %td to %td are not in the %zu bytes of LDS", offset,
         offset + static_cast<ptrdiff_t>(size), launch_->lds_bytes);
  }
  if (address % alignment != 0) {
    Fail(site, "LDS address %td is not aligned to %zu", offset, alignment);
  }
}

// -------------------------------------------------------------------------------------- reports

std::string Executor::Place() const {
  return "simt_host: block " + std::to_string(blockIdx.x) + " (seed " +
         std::to_string(launch_->seed) + ")";
}

std::string Describe(const Site& site) {
  return std::string(site.operation) + " (" + site.file + ":" + std::to_string(site.line) + ")";
}

void Executor::FailAt(const Site& site, const char* what) {
  report_ =
      Place() + ", lane " + std::to_string(lane_->index) + ", " + Describe(site) + ": " + what;
  Abandon();
}

void Executor::Abandon() {
  Publish(this);
  Switch(lane_->fiber, thread_);
  std::abort();  // an abandoned lane is never resumed
}

// "lanes 0-15 at ShuffleXor (kernels/hip/attend.h:20), lanes 16-31 ended"
std::string Executor::DescribeLanes(const Wave& wave) const {
  const auto first = static_cast<size_t>(&wave - waves_.data()) * launch_->wave_size;
  std::string text;
  for (int i = 0; i < launch_->wave_size;) {
    const auto at = [&](int lane) {
      const Site* const site = lanes_[first + static_cast<size_t>(lane)]->site;
      return site == nullptr ? std::string("ended") : "at " + Describe(*site);
    };
    const std::string here = at(i);
    int end = i + 1;
    while (end < launch_->wave_size && at(end) == here) ++end;
    text += (text.empty() ? "" : ", ");
    text += end == i + 1 ? "lane " + std::to_string(i)
                         : "lanes " + std::to_string(i) + "-" + std::to_string(end - 1);
    text += " " + here;
    i = end;
  }
  return text;
}

std::string Executor::DescribeWaves() const {
  std::string text;
  for (size_t w = 0; w < waves_.size(); ++w) {
    text += (w == 0 ? "wave " : ", wave ") + std::to_string(w);
    text += waves_[w].at_barrier ? " at " + Describe(*waves_[w].site) : " ended";
  }
  return text;
}

}  // namespace

std::string RunGrid(const GridLaunch& launch) { return Executor::Get().Run(launch); }

void FillWithNan(void* data, size_t size) {
  static const std::vector<uint16_t> nans(size_t{1} << 15, 0x7fff);
  auto* bytes = static_cast<std::byte*>(data);
  while (size > 0) {
    const size_t part = std::min(size, nans.size() * sizeof(nans[0]));
    std::memcpy(bytes, nans.data(), part);
    bytes += part;
    size -= part;
  }
}

int CurrentLane() { return static_cast<int>(Executor::Get().lane().index) % wave_size_of_launch; }
void MeetInWave(const Site& site, void* argument, void (*complete)(void* const*, int)) {
  Executor::Get().MeetInWave(site, argument, complete);
}
bool MeetInBlock(const Site& site, bool mine) { return Executor::Get().MeetInBlock(site, mine); }
void CheckLds(const Site& site, const void* data, size_t size, size_t alignment) {
  Executor::Get().CheckLds(site, data, size, alignment);
}
void Fail(const Site& site, const char* format, ...) {
  char what[256];
  va_list arguments;
  va_start(arguments, format);
  // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): va_start is not seen by clang-tidy 14
  std::vsnprintf(what, sizeof(what), format, arguments);
  va_end(arguments);
  Executor::Get().FailAt(site, what);
}
AsyncCopies& CopiesOfLane() { return Executor::Get().lane().copies; }

}  // namespace attnd::simt
