// SPDX-License-Identifier: Apache-2.0
//
// Brings a task's rows of queries into LDS, once: on NVIDIA by copies that the hardware makes on
// its own, else through registers, several on their way at a time.
//
// Rows past the last are zeros. A softmax scale below zero turns the queries' sign. Numbers of the
// kF32 compute are cut into their three parts, each a tile of its own.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/lds_tile.h"
#include "kernels/hip/numbers.h"
#include "kernels/hip/rows.h"

namespace attnd::gpu {

struct QuerySource {
  Heads q;
  Rows rows;
  int row_begin;
  int row_end;
  int head_dim;
  float sign;
  Type type;

  ATTND_ACCESSOR const std::byte* Row(int row) const {
    return q.Row(rows.Query(row), rows.Head(row));
  }
};

template <class Mma, int kParts, int kRows, int kDim, int kThreads>
class QueryLoader {
 public:
  static constexpr bool kAsync = Mma::kAsyncCopies && kParts == 1;

  // Starts the copies to `tile` where they are the hardware's, as one group.
  ATTND_MEMBER void Issue(const QuerySource& source, std::byte* tile) {
    if constexpr (kAsync) {
      ForEachChunk<1>([&](int row, int chunk, int) {
        const std::byte* from = Address(source, row, chunk);
        const bool valid = from != nullptr && source.sign != 0.0f;
        Mma::CopyAsync16(LdsTile<kDim>::At(tile, 0, row, 0, chunk), valid ? from : source.q.data,
                         valid);
      });
      Mma::CommitCopies();
    }
  }

  // What was issued is there for everyone after the next barrier, where at most `kGroupsAfter`
  // groups of copies were started since. Returns whether this thread met NaN or infinities where
  // they could not stay (kF32): they are zeros in the tile.
  template <int kGroupsAfter>
  ATTND_MEMBER bool Commit(const QuerySource& source, std::byte* tile) {
    bool special = false;
    if constexpr (kAsync) {
      Mma::template WaitCopies<kGroupsAfter>();
      if (source.sign < 0.0f) {
        ForEachChunk<1>([&](int row, int chunk, int) {
          auto* words = reinterpret_cast<U32x4*>(LdsTile<kDim>::At(tile, 0, row, 0, chunk));
          *words = WithTurnedSigns(*words);
        });
      }
    } else if constexpr (kParts == 1) {
      constexpr int kAtOnce = 4;
      U32x4 held[kAtOnce];
      ForEachChunk<kAtOnce>(
          [&](int row, int chunk, int i) {
            held[i] = U32x4{0, 0, 0, 0};
            const std::byte* from = Address(source, row, chunk);
            if (from != nullptr && source.sign != 0.0f) held[i] = LoadGlobal<U32x4>(from);
          },
          [&](int row, int chunk, int i) {
            const U32x4 words = source.sign < 0.0f ? WithTurnedSigns(held[i]) : held[i];
            *reinterpret_cast<U32x4*>(LdsTile<kDim>::At(tile, 0, row, 0, chunk)) = words;
          });
    } else {
      constexpr int kAtOnce = 2;
      float held[kAtOnce][kChunk];
      ForEachChunk<kAtOnce>(
          [&](int row, int chunk, int i) {
            ATTND_UNROLL
            for (int d = 0; d < kChunk; ++d) held[i][d] = 0.0f;
            const std::byte* from = Address(source, row, chunk);
            if (from != nullptr) LoadChunk(source.type, from, held[i]);
          },
          [&](int row, int chunk, int i) {
            ATTND_UNROLL
            for (int d = 0; d < kChunk; ++d) held[i][d] *= source.sign;
            special |= ClearNonFinite(held[i]);
            ATTND_UNROLL
            for (int part = 0; part < kParts; ++part) {
              std::byte* to = LdsTile<kDim>::At(tile + part * kRows * kDim * 2, 0, row, 0, chunk);
              *reinterpret_cast<U32x4*>(to) = TakeHighParts(held[i]);
            }
          });
    }
    return special;
  }

 private:
  static constexpr int kChunks = kDim / kChunk;
  static constexpr int kCount = kRows * kChunks;

  // This thread's chunks, kAtOnce at a time: `load` for each of those, then `store` for each.
  template <int kAtOnce, class Load, class Store>
  ATTND_MEMBER void ForEachChunk(const Load& load, const Store& store) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int begin = thread; begin < kCount; begin += kAtOnce * kThreads) {
      ATTND_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = begin + i * kThreads;
        if (at < kCount) load(at / kChunks, at % kChunks, i);
      }
      ATTND_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int at = begin + i * kThreads;
        if (at < kCount) store(at / kChunks, at % kChunks, i);
      }
    }
  }
  template <int kAtOnce, class Load>
  ATTND_MEMBER void ForEachChunk(const Load& load) {
    ForEachChunk<kAtOnce>(load, [](int, int, int) {});
  }

  // Null where there is nothing to read.
  ATTND_MEMBER const std::byte* Address(const QuerySource& source, int row, int chunk) {
    if (source.row_begin + row >= source.row_end || chunk * kChunk >= source.head_dim) {
      return nullptr;
    }
    return source.Row(source.row_begin + row) +
           chunk * kChunk * (kParts > 1 ? SizeOf(source.type) : 2);
  }
  ATTND_MEMBER U32x4 WithTurnedSigns(U32x4 words) {
    ATTND_UNROLL
    for (int i = 0; i < 4; ++i) words[i] = words[i] ^ 0x80008000u;
    return words;
  }
};

}  // namespace attnd::gpu
