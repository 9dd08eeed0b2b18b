// SPDX-License-Identifier: Apache-2.0
//
// One workload of the attention benchmark: its tensors, its launch, its check against the
// reference.
//
// Prefill reads dense [batch, heads, tokens, dim] tensors, the layout that PyTorch is measured on;
// decode reads 16-token pages in random order. One thread at a time.
//
//   AttentionCase prefill({.batch = 8, .tokens = 1024, .causal = true}, /*num_threads=*/2);
//   double error = prefill.RelativeError();
//   double seconds = prefill.Run();
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend/attention_backend.h"
#include "kernels/cpu/cpu_device.h"

namespace attnd::bench {

struct CaseSpec {
  DType dtype = DType::kF32;  // of queries, cache and outputs
  int64_t batch = 8;
  int32_t query_heads = 8;
  int32_t kv_heads = 8;
  int32_t head_dim = 64;
  int64_t tokens = 1024;     // prefill: queries and keys; decode: keys
  int64_t first_tokens = 0;  // those of the first item, where not as many
  bool causal = false;
  bool decode = false;

  int64_t TokensOf(int64_t item) const {
    return item == 0 && first_tokens > 0 ? first_tokens : tokens;
  }
};

std::string Describe(const CaseSpec& spec);  // "prefill f32 b=8 h=8/8 d=64 n=1024 causal"

// FLOPs that the result needs: 4 head_dim for each pair of a query and a key that it sees; causal
// counts n(n+1)/2 pairs.
double NeededFlops(const CaseSpec& spec);
// Bytes of K and V that the result needs, each once.
double NeededKvBytes(const CaseSpec& spec);

class AttentionCase {
 public:
  AttentionCase(const CaseSpec& spec, int num_threads);

  // One launch; its wall time in seconds, planning included.
  double Run();
  // Relative L2 error of some rows of the last Run against the fp64 reference.
  double RelativeError();

 private:
  void MakeTensors();
  void MakeItems();

  const CaseSpec spec_;
  std::unique_ptr<CpuDevice> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<AttentionBackend> backend_;
  std::unique_ptr<LaunchPlan> plan_;
  Buffer q_, kv_, out_;
  std::vector<std::vector<uint64_t>> page_offsets_;  // by item
  std::vector<AttentionItem> items_;
  AttentionParams params_;
};

}  // namespace attnd::bench
