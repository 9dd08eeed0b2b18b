// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer: any call of the KV cache with any arguments leaves it intact.
//
// An input is a list of calls: one byte says which, the next ones give its arguments, small numbers
// mostly, so that calls meet, and extreme ones. CheckIntegrity follows each. The property test
// knows what each call must answer; this one finds what nobody thought of. The unit tests run it on
// random inputs; for a real run:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz/kv_cache_fuzz.cc
//       kv_cache/*.cc kernels/base/clock.cc -lcrypto $(pkg-config --libs absl_status absl_statusor
//       absl_str_format absl_flat_hash_map absl_btree) -o kv_cache_fuzz && ./kv_cache_fuzz
#include <array>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/clock.h"
#include "kv_cache/kv_cache.h"

namespace attnd {
namespace {

class SteppingClock final : public Clock {
 public:
  MonotonicTime Now() const override { return now; }
  MonotonicTime now = MonotonicTime(std::chrono::hours(1));
};

// Four superblocks, aligned, reused by all inputs.
std::span<std::byte> Pool() {
  static constexpr size_t kBytes = size_t{8} << 20;
  static std::byte* const memory =
      static_cast<std::byte*>(std::aligned_alloc(kSuperblockBytes.value(), kBytes));
  return {memory, kBytes};
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  // Small as a rule; the upper bytes of the range give the numbers that break things.
  int64_t Number() {
    static constexpr int64_t kExtremes[] = {
        INT64_MIN,     INT64_MAX, -1,       int64_t{1} << 32, (int64_t{1} << 32) - 1,
        INT64_MAX / 2, 1025,      INT32_MAX};
    const uint8_t byte = Byte();
    return byte >= 248 ? kExtremes[byte - 248] : byte;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

class Fuzzer {
 public:
  explicit Fuzzer(Input input) : input_(input), kv_(Pool(), MakeOptions(), clock_) {
    kv_.OpenCache("a", {2, 2, 1, 128, 128, DType::kF32, 64}, PageCount(0)).value();
    kv_.OpenCache("b", {1, 8, 8, 256, 256, DType::kF16, 128}, PageCount(6)).value();
    sessions_.push_back(kv_.OpenSession(Duration::zero(), "").value());
    sequences_.push_back(
        kv_.CreateSequence(sessions_[0].ref, kv_.Stats().caches[0].cache, "").value());
  }

  void Run() {
    while (!input_.empty()) {
      Call();
      const auto report = kv_.CheckIntegrity();
      if (!report.ok()) {
        std::fprintf(stderr, "%s\n", report.status().ToString().c_str());
        std::abort();
      }
    }
  }

 private:
  static KvCache::Options MakeOptions() {
    KvCache::Options options{.boot = 1};
    options.max_sequences = 12;
    options.max_sessions = 3;
    options.max_caches = 3;
    options.poison_free_pages = true;
    return options;
  }

  // One that exists, or once in a while something else.
  template <typename T>
  T Pick(const std::vector<T>& from) {
    const uint8_t byte = input_.Byte();
    return byte == 255 || from.empty() ? T() : from[byte % from.size()];
  }
  SessionRef PickSession() {
    SessionRef ref = Pick(sessions_).ref;
    const uint8_t byte = input_.Byte();
    if (byte >= 250) ref.epoch = static_cast<uint64_t>(input_.Number());
    return ref;
  }
  CacheId PickCache() {
    std::vector<CacheId> ids;
    for (const CacheInfo& info : kv_.Stats().caches) ids.push_back(info.cache);
    return Pick(ids);
  }
  LayerAccess Access() {
    LayerAccess access{.by = PickSession(),
                       .sequence = Pick(sequences_),
                       .layer = LayerIndex(static_cast<uint32_t>(input_.Byte() % 3)),
                       .write = input_.Byte() % 4 != 0,
                       .step = static_cast<uint64_t>(input_.Number()),
                       .start_position = TokenCount(input_.Number()),
                       .num_tokens = TokenCount(input_.Number())};
    if (!access.write && input_.Byte() % 2 == 0) access.kv_length = TokenCount(input_.Number());
    return access;
  }
  std::optional<TokenCount> MaybeLength() {
    if (input_.Byte() % 2 == 0) return std::nullopt;
    return TokenCount(input_.Number());
  }
  CacheGeometry Geometry() {
    const auto number = [this] { return static_cast<int32_t>(input_.Number()); };
    return {number(), number(), number(), number(), number(), DType::kBF16, number()};
  }

  void Call() {
    switch (input_.Byte() % 18) {
      case 0:
      case 1: {
        const LayerAccess access = Access();
        if (auto reservation = kv_.Reserve(access); reservation.ok() && items_.size() < 16) {
          items_.emplace_back(access, *std::move(reservation));
        }
        return;
      }
      case 2:
      case 3: {
        if (items_.empty()) return;
        const size_t i = input_.Byte() % items_.size();
        auto [access, reservation] = std::move(items_[i]);
        items_.erase(items_.begin() + static_cast<ptrdiff_t>(i));
        return Keep(kv_.Pin(access, std::move(reservation)));
      }
      case 4:
        return Keep(kv_.Pin(Access(), PageReservation()));
      case 5: {
        if (items_.empty()) return;
        // A reservation of whatever sequence.
        PageReservation reservation = std::move(items_.back().second);
        items_.pop_back();
        return Keep(kv_.Pin(Access(), std::move(reservation)));
      }
      case 6:
      case 7:
        if (!leases_.empty()) {
          leases_.erase(leases_.begin() + static_cast<ptrdiff_t>(input_.Byte() % leases_.size()));
        }
        return;
      case 8:
        return Keep(kv_.CreateSequence(PickSession(), PickCache(), std::string(3, 's')));
      case 9:
        return Keep(kv_.Fork(PickSession(), Pick(sequences_), MaybeLength()));
      case 10:
        (void)kv_.Truncate(PickSession(), Pick(sequences_), TokenCount(input_.Number()));
        return;
      case 11:
        (void)kv_.Free(PickSession(), Pick(sequences_));
        return;
      case 12:
        Keep(kv_.OpenSession(Duration(input_.Number()), std::string(input_.Byte(), 'l'),
                             std::string(input_.Byte() % 130, 't')));
        return;
      case 13:
        return Keep(kv_.ResumeSession(Pick(sessions_).token, Duration(input_.Number())));
      case 14:
        return Housekeeping();
      case 15:
        return CreateFromPrefix();
      case 16: {
        const std::vector<std::string> keys = PrefixKeys();
        const std::vector<std::string_view> views(keys.begin(), keys.end());
        const uint8_t page = input_.Byte();
        (void)kv_.PublishPrefix(PickSession(), Pick(sequences_),
                                page < 200 ? page % 3 : input_.Number(), views);
        return;
      }
      default:
        (void)kv_.Describe(PickSession(), Pick(sequences_));
        (void)kv_.SetClientState(PickSession(), Pick(sequences_), input_.Byte() % 4, "state");
        return;
    }
  }

  // Of a few prompts, one key in 32 bad.
  std::vector<std::string> PrefixKeys() {
    const uint8_t prompt = input_.Byte();
    std::vector<std::string> keys;
    for (int i = 0; i < prompt % 5; ++i) {
      keys.emplace_back(16, static_cast<char>('a' + prompt % 3));
      keys.back()[0] = static_cast<char>(i);
    }
    if (prompt >= 248 && !keys.empty()) keys.back().resize(input_.Byte() % 16);
    return keys;
  }
  void CreateFromPrefix() {
    const std::vector<std::string> keys = PrefixKeys();
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    const int64_t number = input_.Number();
    // Small numbers would seldom reach beyond a page.
    const TokenCount num_tokens(number >= 0 && number < 1024 ? number * 4 : number);
    const Prefix prefix{.keys = views, .num_tokens = num_tokens};
    const SessionRef by = PickSession();
    const CacheId cache = PickCache();
    if (const auto matched = kv_.MatchPrefix(by, cache, prefix); matched.ok()) {
      const auto created = kv_.CreateSequence(by, cache, "", prefix);
      if (!created.ok()) return;
      if (created->matched != *matched) std::abort();
      sequences_.push_back(created->sequence);
    }
  }

  void Housekeeping() {
    clock_.now += std::chrono::seconds(input_.Byte());
    for (const SessionRef& expired : kv_.ExpiredSessions()) (void)kv_.CloseSession(expired);
    if (input_.Byte() % 8 == 0) (void)kv_.CloseSession(PickSession());
    if (input_.Byte() % 8 == 0) (void)kv_.CloseCache(PickCache());
    if (input_.Byte() % 8 == 0) {
      (void)kv_.OpenCache("c", Geometry(), PageCount(input_.Number()));
    }
    if (kv_.Stats().caches.empty()) {
      (void)kv_.OpenCache("a", {2, 2, 1, 128, 128, DType::kF32, 64}, PageCount(0));
    }
  }

  void Keep(absl::StatusOr<PageLease> lease) {
    if (lease.ok() && leases_.size() < 12) leases_.push_back(*std::move(lease));
  }
  void Keep(absl::StatusOr<SequenceId> sequence) {
    if (sequence.ok()) sequences_.push_back(*sequence);
  }
  void Keep(absl::StatusOr<SessionGrant> grant) {
    if (grant.ok()) sessions_.push_back(*std::move(grant));
  }

  Input input_;
  SteppingClock clock_;
  KvCache kv_;
  std::vector<SessionGrant> sessions_;  // replaced and closed ones too
  std::vector<SequenceId> sequences_;   // freed ones too
  std::vector<std::pair<LayerAccess, PageReservation>> items_;
  std::vector<PageLease> leases_;
};

}  // namespace
}  // namespace attnd

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  attnd::Fuzzer(attnd::Input(data, size)).Run();
  return 0;
}
