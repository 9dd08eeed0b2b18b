// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/hip/launcher.h"

#include <cmath>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "tests/bench/hip/platform.h"

using attnd::bench::BenchPlatform;

struct AttndLauncher {
  BenchPlatform platform;
  std::string name;
};

struct AttndCase {
  AttndLauncher* launcher;
  std::vector<uint64_t> page_offsets;
  std::vector<attnd::AttentionItem> items;
  attnd::AttentionParams params;
  std::unique_ptr<attnd::LaunchPlan> plan;
};

namespace attnd::bench {
namespace {

// What a C function returns for `status`.
const char* Outcome(const absl::Status& status) {
  static thread_local std::string message;
  if (status.ok()) return nullptr;
  message = status.ToString();
  return message.c_str();
}

// The rows of one tensor [tokens, heads, head_dim] from `token` on.
template <typename T>
HeadsView<T> RowsFrom(T* tensor, int64_t token, int64_t heads, const AttndCaseNumbers& numbers) {
  if (tensor == nullptr) return {};
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  const int64_t row = heads * numbers.head_dim;
  const auto size = static_cast<int64_t>(SizeOf(static_cast<DType>(numbers.dtype)));
  return {static_cast<Byte*>(tensor) + token * row * size, row, numbers.head_dim};
}

KvView PagesOf(const AttndCaseNumbers& numbers, const uint64_t* page_offsets) {
  const int64_t head = numbers.page_size_tokens * numbers.head_dim;
  const auto size = static_cast<int64_t>(SizeOf(static_cast<DType>(numbers.dtype)));
  auto* pages = static_cast<std::byte*>(numbers.pages);
  return {.k = pages,
          .v = pages + numbers.kv_heads * head * size,
          .page_offsets = page_offsets,
          .page_size_tokens = numbers.page_size_tokens,
          .k_head_stride_elems = head,
          .k_token_stride_elems = numbers.head_dim,
          .v_head_stride_elems = head,
          .v_token_stride_elems = numbers.head_dim};
}

void MakeItems(const AttndCaseNumbers& numbers, AttndCase& work) {
  int64_t pages = 0;
  for (int32_t i = 0; i < numbers.batch; ++i) {
    pages += PagesFor(TokenCount(numbers.kv_lens[i]), TokenCount(numbers.page_size_tokens)).value();
  }
  work.page_offsets.assign(numbers.page_offsets, numbers.page_offsets + pages);
  const uint64_t* offsets = work.page_offsets.data();
  int64_t token = 0;
  for (int32_t i = 0; i < numbers.batch; ++i) {
    AttentionItem item;
    item.query_len = numbers.query_lens[i];
    item.kv_len = numbers.kv_lens[i];
    item.start_position = item.kv_len - item.query_len;
    item.q = RowsFrom(numbers.q, token, numbers.query_heads, numbers);
    item.out = RowsFrom(numbers.out, token, numbers.query_heads, numbers);
    item.new_k = RowsFrom(numbers.new_k, token, numbers.kv_heads, numbers);
    item.new_v = RowsFrom(numbers.new_v, token, numbers.kv_heads, numbers);
    item.kv = PagesOf(numbers, offsets);
    item.options.softmax_scale = 1.0f / std::sqrt(static_cast<float>(numbers.head_dim));
    item.options.causal = numbers.causal != 0;
    work.items.push_back(item);
    token += item.query_len;
    offsets += PagesFor(TokenCount(item.kv_len), TokenCount(numbers.page_size_tokens)).value();
  }
}

absl::Status PlanCase(const AttndCaseNumbers& numbers, AttndCase& work) {
  MakeItems(numbers, work);
  const auto dtype = static_cast<DType>(numbers.dtype);
  work.params = {.key = {.q_dtype = dtype,
                         .kv_dtype = dtype,
                         .head_dim_k = numbers.head_dim,
                         .head_dim_v = numbers.head_dim,
                         .features = {}},
                 .num_query_heads = numbers.query_heads,
                 .num_kv_heads = numbers.kv_heads,
                 .items = work.items};
  if (numbers.causal != 0) work.params.key.features.Add(Feature::kCausal);
  const AttentionBackend& backend = *work.launcher->platform.backend;
  ATTND_RETURN_IF_ERROR(backend.Supports(work.params.key));
  work.plan = backend.NewPlan();
  return backend.Plan(work.params, *work.plan);
}

absl::Status Wait(BenchPlatform& platform) {
  ATTND_ASSIGN_OR_RETURN(std::unique_ptr<Event> event, platform.stream->Record());
  return event->Wait();
}

}  // namespace
}  // namespace attnd::bench

using attnd::bench::Outcome;

const char* attnd_launcher_open(int32_t device, int32_t launches, AttndLauncher** launcher) {
  absl::StatusOr<BenchPlatform> platform = attnd::bench::OpenBenchPlatform(device, launches);
  if (!platform.ok()) return Outcome(platform.status());
  const attnd::Capabilities& capabilities = platform->backend->capabilities();
  std::string name =
      capabilities.backend + ": " + capabilities.isa + ", " + platform->device->info().name;
  *launcher = new AttndLauncher{.platform = *std::move(platform), .name = std::move(name)};
  return nullptr;
}

void attnd_launcher_close(AttndLauncher* launcher) { delete launcher; }

void* attnd_launcher_stream(AttndLauncher* launcher) { return launcher->platform.native_stream; }

const char* attnd_launcher_name(AttndLauncher* launcher) { return launcher->name.c_str(); }

const char* attnd_launcher_wait(AttndLauncher* launcher) {
  return Outcome(attnd::bench::Wait(launcher->platform));
}

const char* attnd_case_new(AttndLauncher* launcher, const AttndCaseNumbers* numbers,
                           AttndCase** work) {
  auto made = std::make_unique<AttndCase>();
  made->launcher = launcher;
  if (absl::Status status = attnd::bench::PlanCase(*numbers, *made); !status.ok()) {
    return Outcome(status);
  }
  *work = made.release();
  return nullptr;
}

void attnd_case_free(AttndCase* work) { delete work; }

const char* attnd_case_launch(AttndCase* work) {
  BenchPlatform& platform = work->launcher->platform;
  return Outcome(platform.backend->Launch(*platform.stream, *work->plan, work->params));
}
