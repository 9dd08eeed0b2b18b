// SPDX-License-Identifier: Apache-2.0
//
// Brings tiles of keys and values from their pages into LDS.
//
// A thread moves chunks of 8 numbers: one column of chunks, a run of neighbouring keys. Three ways:
// copies that the hardware makes on its own (NVIDIA, equal types), several tiles ahead; through
// registers, one tile ahead; or in place, where LDS holds a single tile. Values are transposed to
// [dim][key] on the way where the trait wants them so. Numbers of the kF32 compute are cut into
// their three parts, each a tile of its own.
//
// Keys at and beyond the end of the task's range become zeros and are never read: their pages may
// not exist.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/lds_tile.h"
#include "kernels/hip/numbers.h"

namespace attnd::gpu {

// The keys and values of one KV head of an item, as far as a task sees them.
struct KvSource {
  const std::byte* k;  // of the head, on a page at offset 0
  const std::byte* v;
  const uint32_t* page_places;
  int page_shift;
  int64_t k_token_stride_bytes;
  int64_t v_token_stride_bytes;
  FastDivide page_size;
  int num_pages;
  int key_end;
  int head_dim_k;
  int head_dim_v;
  Type type;

  // A key's page, and its place there.
  struct Place {
    uint64_t page_offset;
    int row;
  };
  // Of a key below key_end.
  ATTND_ACCESSOR Place Find(int key) const {
    const auto page = static_cast<int>(page_size.Quotient(key));
    ATTND_DEVICE_CHECK(key >= 0 && key < key_end && page < num_pages);
    return {static_cast<uint64_t>(page_places[page]) << page_shift,
            key - page * static_cast<int>(page_size.divisor)};
  }
  template <bool kValues>
  ATTND_ACCESSOR const std::byte* Row(Place place, int after = 0) const {
    return kValues ? v + place.page_offset + (place.row + after) * v_token_stride_bytes
                   : k + place.page_offset + (place.row + after) * k_token_stride_bytes;
  }
};

template <class Mma, int kParts, int kKeys, int kDim, int kThreads, int kStages>
class KvLoader {
 public:
  static constexpr bool kAsync = Mma::kAsyncCopies && kParts == 1 && kStages > 1;
  static constexpr bool kInPlace = kStages == 1;
  // Whether LDS addresses are computed again for each tile, even if the trait has no need of it:
  // where tiles are loaded in place there is time for that, and few registers to spare.
  static constexpr bool kRemat = kInPlace && Mma::kWaveSize == 32;

  // `page_run`: as many neighbouring keys, aligned, share a page.
  ATTND_ACCESSOR KvLoader(int thread, int page_run) {
    chunk_ = thread % kChunkSlots;
    first_row_ = thread / kChunkSlots * kRows;
    one_page_ = page_run >= kRows;
  }

  // Looks up where the keys of the tile at key0 lie, ahead of their first load.
  ATTND_ACCESSOR void Locate(const KvSource& source, int key0) {
    const int key = key0 + first_row_;
    next_ = {0, 0};
    if (one_page_ && key < source.key_end) next_ = source.Find(key);
  }
  // What was located last, for a caller that locates several tiles before it loads the first.
  ATTND_ACCESSOR KvSource::Place next() const { return next_; }
  ATTND_ACCESSOR void set_next(KvSource::Place place) { next_ = place; }
  // The tile last located is the one loaded from now on.
  ATTND_ACCESSOR void Advance() { place_ = next_; }

  // Starts to load the keys or values of the tile at key0; where copies are the hardware's, to
  // `tile`. Does nothing in place.
  template <bool kValues>
  ATTND_ACCESSOR void Issue(const KvSource& source, int key0, std::byte* tile) {
    if constexpr (kInPlace) return;
    if constexpr (kAsync) {
      CopyRows<kValues>(source, key0, tile);
    } else {
      FetchRows<kValues, kRows>(source, key0, 0);
    }
  }

  // What was issued is written to `tile`, and is there for everyone after the next barrier. Returns
  // whether it holds NaN or infinities, where `check` asks or where they could not stay: they are
  // zeros in the tile.
  template <bool kValues>
  ATTND_ACCESSOR bool Commit(const KvSource& source, int key0, bool check, std::byte* tile) {
    bool special = false;
    if constexpr (kAsync) {
      Mma::template WaitCopies<kStages - 2>();
      if (check) special = ClearSpecialInTile(tile);
    } else if constexpr (kInPlace) {
      // Few rows at a time, to stay within registers.
      ATTND_UNROLL
      for (int j = 0; j < kRows; j += kStoreRows) {
        FetchRows<kValues, kStoreRows>(source, key0, j);
        special |= Store<kValues>(check, tile, j);
      }
    } else {
      ATTND_UNROLL
      for (int j = 0; j < kRows; j += kStoreRows) special |= Store<kValues>(check, tile, j);
    }
    return special;
  }

 private:
  static constexpr bool kTransposed = Mma::kValuesTransposed;
  static constexpr int kChunks = kDim / kChunk;
  // Threads side by side on a row: a power of two.
  static constexpr int kChunkSlots = kChunks <= 4 ? 4 : kChunks <= 8 ? 8 : kChunks <= 16 ? 16 : 32;
  static constexpr int kRows = kKeys * kChunkSlots / kThreads;
  static_assert(kRows >= 1 && kRows <= 64 && (kRows & (kRows - 1)) == 0);
  static_assert(!kTransposed || kRows >= 2, "values are transposed in pairs");
  // Rows that pass the registers together.
  static constexpr int kMostRows = kInPlace && kParts > 1 ? (kDim > 128 ? 2 : 4) : 8;
  static constexpr int kStoreRows = kRows < kMostRows ? kRows : kMostRows;
  static constexpr int kHeldRows = kAsync ? 1 : kInPlace ? kStoreRows : kRows;
  static constexpr int kPartBytes = kKeys * kDim * 2;
  static constexpr bool kConverts = kParts > 1;

  // Nearly always all rows of the thread are there, in one page: one address, and no branch between
  // the loads.
  template <bool kValues>
  ATTND_ACCESSOR bool IsWhole(const KvSource& source, int key0) const {
    const int dim = kValues ? source.head_dim_v : source.head_dim_k;
    return one_page_ && key0 + kKeys <= source.key_end && dim == kDim && kChunks == kChunkSlots;
  }
  template <bool kValues>
  ATTND_ACCESSOR const std::byte* Address(const KvSource& source, KvSource::Place place,
                                          int after) const {
    return source.template Row<kValues>(place, after) +
           Opaque(chunk_) * kChunk * (kConverts ? SizeOf(source.type) : 2);
  }
  // Row j of the thread, or null where there is nothing to read.
  template <bool kValues>
  ATTND_ACCESSOR const std::byte* Address(const KvSource& source, int key0, int j) const {
    const int key = key0 + Opaque(first_row_) + j;
    const int dim = kValues ? source.head_dim_v : source.head_dim_k;
    if (key >= source.key_end || chunk_ * kChunk >= dim) return nullptr;
    if (one_page_) return Address<kValues>(source, place_, j);
    return Address<kValues>(source, source.Find(key), 0);
  }

  template <bool kValues>
  ATTND_ACCESSOR void CopyRows(const KvSource& source, int key0, std::byte* tile) {
    if (IsWhole<kValues>(source, key0)) {
      const std::byte* from = Address<kValues>(source, place_, 0);
      const int64_t stride = kValues ? source.v_token_stride_bytes : source.k_token_stride_bytes;
      ATTND_UNROLL
      for (int j = 0; j < kRows; ++j) {
        Mma::CopyAsync16(LdsTile<kDim>::At(tile, j, first_row_, 0, chunk_), from, true);
        from += stride;
      }
      return;
    }
    if (chunk_ >= kChunks) return;
    ATTND_UNROLL
    for (int j = 0; j < kRows; ++j) {
      const std::byte* from = Address<kValues>(source, key0, j);
      Mma::CopyAsync16(LdsTile<kDim>::At(tile, j, first_row_, 0, chunk_),
                       from != nullptr ? from : source.k, from != nullptr);
    }
  }

  // Rows [j, j + kCount) of the thread to the registers.
  template <bool kValues, int kCount>
  ATTND_ACCESSOR void FetchRows(const KvSource& source, int key0, int j) {
    if (IsWhole<kValues>(source, key0)) {
      const std::byte* from = Address<kValues>(source, place_, j);
      const int64_t stride = kValues ? source.v_token_stride_bytes : source.k_token_stride_bytes;
      ATTND_UNROLL
      for (int i = 0; i < kCount; ++i) {
        Fetch(source, from, i);
        from += stride;
      }
      return;
    }
    ATTND_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const std::byte* from = Address<kValues>(source, key0, j + i);
      if (from != nullptr) {
        Fetch(source, from, i);
      } else {
        Clear(i);
      }
    }
  }
  ATTND_ACCESSOR void Fetch(const KvSource& source, const std::byte* from, int held) {
    if constexpr (kConverts) {
      LoadChunk(source.type, from, numbers_[held]);
    } else {
      chunks_[held] = LoadGlobal<U32x4>(from);
    }
  }
  ATTND_ACCESSOR void Clear(int held) {
    if constexpr (kConverts) {
      ATTND_UNROLL
      for (int i = 0; i < kChunk; ++i) numbers_[held][i] = 0.0f;
    } else {
      chunks_[held] = U32x4{0, 0, 0, 0};
    }
  }

  // kStoreRows rows from row j of the thread.
  template <bool kValues>
  ATTND_ACCESSOR bool Store(bool check, std::byte* tile, int j) {
    const int held = kInPlace ? 0 : j;
    bool special = false;
    if constexpr (kConverts) {
      ATTND_UNROLL
      for (int r = 0; r < kStoreRows; ++r) special |= ClearNonFinite(numbers_[held + r]);
      ATTND_UNROLL
      for (int part = 0; part < kParts; ++part) {
        U32x4 words[kStoreRows];
        ATTND_UNROLL
        for (int r = 0; r < kStoreRows; ++r) words[r] = TakeHighParts(numbers_[held + r]);
        StoreWords<kValues>(words, tile + part * kPartBytes, j);
      }
    } else {
      U32x4 words[kStoreRows];
      ATTND_UNROLL
      for (int r = 0; r < kStoreRows; ++r) words[r] = chunks_[held + r];
      if (kValues && check) {
        ATTND_UNROLL
        for (int r = 0; r < kStoreRows; ++r) special |= ClearSpecial(words[r]);
      }
      StoreWords<kValues>(words, tile, j);
    }
    return special;
  }

  template <bool kValues>
  ATTND_ACCESSOR void StoreWords(const U32x4 (&words)[kStoreRows], std::byte* tile, int j) {
    if (chunk_ >= kChunks) return;
    // Addresses that are computed again for each tile are not held in registers meanwhile.
    const int chunk = kRemat ? Opaque(chunk_) : Mma::Remat(chunk_);
    const int first_row = kRemat ? Opaque(first_row_) : Mma::Remat(first_row_);
    if constexpr (kValues && kTransposed) {
      // Dim d of the thread's keys, neighbours in its row.
      ATTND_UNROLL
      for (int d = 0; d < kChunk; ++d) {
        std::byte* to = LdsTile<kKeys>::At(tile, d, chunk * kChunk, j / 8, first_row >> 3) +
                        2 * ((first_row + j) & 7);
        uint32_t pairs[kStoreRows / 2];
        ATTND_UNROLL
        for (int p = 0; p < kStoreRows / 2; ++p) {
          pairs[p] = InterleaveHalves(words[2 * p][d >> 1], words[2 * p + 1][d >> 1], (d & 1) != 0);
        }
        if constexpr (kStoreRows == 8) {
          *reinterpret_cast<U32x4*>(to) = U32x4{pairs[0], pairs[1], pairs[2], pairs[3]};
        } else if constexpr (kStoreRows == 4) {
          *reinterpret_cast<U32x2*>(to) = U32x2{pairs[0], pairs[1]};
        } else {
          *reinterpret_cast<uint32_t*>(to) = pairs[0];
        }
      }
    } else {
      ATTND_UNROLL
      for (int r = 0; r < kStoreRows; ++r) {
        *reinterpret_cast<U32x4*>(LdsTile<kDim>::At(tile, j + r, first_row, 0, chunk)) = words[r];
      }
    }
  }

  ATTND_MEMBER bool ClearSpecial(U32x4& words) {
    bool special = false;
    ATTND_UNROLL
    for (int i = 0; i < 4; ++i) {
      uint32_t pair = words[i];
      special |= ClearNonFinite<typename Mma::Element>(pair);
      words[i] = pair;
    }
    return special;
  }
  // Of the chunks that this thread had copied.
  ATTND_ACCESSOR bool ClearSpecialInTile(std::byte* tile) {
    bool special = false;
    if (chunk_ >= kChunks) return false;
    ATTND_UNROLL
    for (int j = 0; j < kRows; ++j) {
      auto* chunk = reinterpret_cast<U32x4*>(LdsTile<kDim>::At(tile, j, first_row_, 0, chunk_));
      U32x4 words = *chunk;
      if (ClearSpecial(words)) {
        special = true;
        *chunk = words;
      }
    }
    return special;
  }

  int chunk_;
  int first_row_;
  bool one_page_;
  KvSource::Place place_ = {0, 0}, next_ = {0, 0};
  U32x4 chunks_[kConverts ? 1 : kHeldRows];
  float numbers_[kConverts ? kHeldRows : 1][kChunk];
};

}  // namespace attnd::gpu
