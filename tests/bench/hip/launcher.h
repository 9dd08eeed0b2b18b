// SPDX-License-Identifier: Apache-2.0
//
// A C interface to an attention backend, for benchmarks that live in another process's language:
// gpu_bench.py loads it beside PyTorch, so that both compute on the same memory and the same
// stream. Numbers and raw device pointers in, launches out.
//
// Functions that can fail return null for success, or what went wrong: valid until the next call of
// this thread. One thread at a time.
//
//   AttndLauncher* launcher;
//   AttndCase* work;
//   attnd_launcher_open(/*device=*/0, /*launches=*/0, &launcher);
//   attnd_case_new(launcher, &numbers, &work);   // plans once
//   attnd_case_launch(work);                     // queues one launch on attnd_launcher_stream()
#pragma once

#include <cstdint>

extern "C" {

struct AttndLauncher;
struct AttndCase;

// One batch. Every tensor lies in device memory and outlives the case; the arrays are copied.
struct AttndCaseNumbers {
  int32_t dtype;  // attnd::DType, of queries, cache and outputs
  int32_t query_heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t causal;
  int32_t batch;
  int64_t page_size_tokens;
  const int64_t* query_lens;     // [batch]
  const int64_t* kv_lens;        // [batch]; queries are the last query_len positions
  const uint64_t* page_offsets;  // bytes into `pages`; item after item, ceil(kv_len / page_size)
                                 // of each
  void* pages;                   // chunks [K, V][kv_head][page_size_tokens][head_dim]
  const void* q;                 // [sum of query_lens, query_heads, head_dim]; null: write only
  void* out;                     // the same shape
  const void* new_k;             // [sum of query_lens, kv_heads, head_dim]; null: read only
  const void* new_v;
};

// `launches` may be on their way at a time; 0: as many as in the daemon.
const char* attnd_launcher_open(int32_t device, int32_t launches, AttndLauncher** launcher);
void attnd_launcher_close(AttndLauncher* launcher);
// The stream that launches go to, as the platform's own handle; null on a CPU.
void* attnd_launcher_stream(AttndLauncher* launcher);
// "hip: sm_90, NVIDIA H100 80GB HBM3".
const char* attnd_launcher_name(AttndLauncher* launcher);
// Waits for all launches.
const char* attnd_launcher_wait(AttndLauncher* launcher);

const char* attnd_case_new(AttndLauncher* launcher, const AttndCaseNumbers* numbers,
                           AttndCase** work);
void attnd_case_free(AttndCase* work);
const char* attnd_case_launch(AttndCase* work);

}  // extern "C"
