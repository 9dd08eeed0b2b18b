// SPDX-License-Identifier: Apache-2.0
//
// The attention kernel: one block computes one KV head of an AttendTask, some rows against a range
// of keys, prefill and decode alike.
//
// A row is a query of one of the query heads that share the KV head, so that each tile of keys is
// read once for all of them. Per tile: scores S = Q K^T on the matrix cores, masks, an online
// softmax in registers, O += P V on the matrix cores. Tiles of K and V take turns in a ring in LDS;
// while one is computed on, the next ones are on their way. Waves either have rows of their own
// (prefill) or share 16 rows and split the keys of each tile (decode); the epilogue adds up the
// latter. Splits of rows become partial results, which the last block to end merges (merge.h).
//
// Sources: Dao, "FlashAttention-2", 2023; Dao et al., "Flash-Decoding for long-context inference",
// 2023. For the kF32 compute: Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial
// intelligence datatype for higher-precision computations", 2019.
#pragma once

#include "kernels/hip/args.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/target.h"
#include "kernels/hip/tile_shape.h"
#if ATTND_DEVICE_CODE
#include "kernels/hip/block_vote.h"
#include "kernels/hip/epilogue.h"
#include "kernels/hip/kv_loader.h"
#include "kernels/hip/merge.h"
#include "kernels/hip/numbers.h"
#include "kernels/hip/query_loader.h"
#include "kernels/hip/rows.h"
#include "kernels/hip/score.h"
#include "kernels/hip/softmax.h"
#include "kernels/hip/special.h"
#endif

namespace attnd::gpu {

#if ATTND_DEVICE_CODE

// kGeneral: the options beyond causality and window, decided at run time.
template <class TargetT, Compute kCompute, int kDim, Phase kPhase, bool kGeneral>
class AttendBlock {
 public:
  ATTND_MEMBER void Run(const AttendArgs& args) {
    WaitForLaunchesBefore();
    const TaskOfBlock of = FindTask(static_cast<int>(blockIdx.x), args.kv_heads);
    const AttendTask task = args.tasks[of.task];
    AttendBlock block(args, args.items[task.item], task, of);
    block.StartLoads();
    block.VisitSplits();
  }

 private:
  static constexpr Core kCore = TargetT::kCore;
  static constexpr TileShape kShape = TileShapeFor(kCore, kCompute, kDim, kPhase);
  static constexpr LdsLayout kLds = LdsLayoutFor(kCore, kCompute, kDim, kPhase);
  static_assert(kLds.total_bytes <= MaxLdsBytes(kCore), "a block's LDS");

  using Mma = typename MmaForCore<kCore, typename ElementOf<kCompute>::Type>::Type;
  using Query = typename Mma::Query;
  using Key = typename Mma::Key;
  using Acc = typename Mma::Acc;
  static_assert(Mma::kWaveSize == WaveSize(kCore) && Mma::kDepth == OperandDepth(kCore));
  static_assert(Mma::kAccElems * Mma::kWaveSize == 256, "an accumulator is a tile of 16 x 16");

  static constexpr int kParts = NumParts(kCompute);
  static constexpr int kThreads = kShape.threads(kCore);
  static constexpr int kRowTiles = kShape.row_tiles;
  static constexpr int kRowSlots = Mma::kRowsPerLane;
  static constexpr int kKeys = kShape.keys;
  static constexpr int kSubs = Mma::kDepth / 16;  // tiles of 16 in an operand's depth
  static constexpr int kSteps = kDim / Mma::kDepth;
  static constexpr int kKeyTiles = kShape.keys_per_wave() / 16;
  static constexpr int kKeyGroups = kShape.keys_per_wave() / Mma::kDepth;
  static constexpr int kDimTiles = kDim / 16;
  static_assert(kDim % Mma::kDepth == 0 && kShape.keys_per_wave() % Mma::kDepth == 0);
  static constexpr int kValueRow = Mma::kValuesTransposed ? kKeys : kDim;
  static constexpr int kPartKeyBytes = kKeys * kDim * 2;
  static constexpr int kPartQueryBytes = kShape.rows() * kDim * 2;

  using Loader = KvLoader<Mma, kParts, kKeys, kDim, kThreads, kShape.stages>;

  using Queries = QueryLoader<Mma, kParts, kShape.rows(), kDim, kThreads>;

  ATTND_ACCESSOR AttendBlock(const AttendArgs& args, const Item& item, const AttendTask& task,
                             TaskOfBlock of)
      : args_(args),
        item_(item),
        task_(task),
        of_(of),
        loader_(static_cast<int>(threadIdx.x), item.page_run) {
    const int thread = static_cast<int>(threadIdx.x);
    lane_ = thread % Mma::kWaveSize;
    wave_ = Uniform(thread / Mma::kWaveSize);
    key_base_ = wave_ % kShape.key_waves * kShape.keys_per_wave();
    wave_row_ = wave_ / kShape.key_waves * kRowTiles * 16;
    first_row_ = task.row_begin + wave_row_ + Mma::Row(lane_, 0);
    // A tile begins where 16 keys do: so does a page, and a run of keys of one thread.
    key0_ = task.key_begin & ~15;
    num_tiles_ = task.key_end > task.key_begin ? (task.key_end - key0_ + kKeys - 1) / kKeys : 0;
    // What every row sees: the first and the last query's limits hold for those between them.
    seen_by_all_ = {VisibleKeys(item, task, QueryOf(task.row_end - 1)).begin,
                    VisibleKeys(item, task, QueryOf(task.row_begin)).end};
  }

  // ---- rows

  ATTND_ACCESSOR int RowOf(int row_tile, int slot) const {
    return first_row_ + 16 * row_tile + (Mma::Row(0, slot) - Mma::Row(0, 0));
  }
  ATTND_ACCESSOR int QueryOf(int row) const { return queries_in_memory_.rows.Query(row); }
  ATTND_ACCESSOR int HeadOf(int row) const { return queries_in_memory_.rows.Head(row); }
  ATTND_ACCESSOR int KeyOf(int key0, int key_tile, int i) const {
    return key0 + key_base_ + key_tile / kSubs * Mma::kDepth +
           Mma::Column(lane_, key_tile % kSubs, i);
  }

  // ---- queries

  // Queries and the first tiles, in the order that LDS has room for.
  ATTND_ACCESSOR void StartLoads() {
    Queries::Issue(queries_in_memory_, Lds());
    if constexpr (!kLds.query_in_ring) StartTiles();
    constexpr int kGroupsAfter = kLds.query_in_ring || !Loader::kAsync ? 0 : kShape.stages - 1;
    special_queries_ = Queries::template Commit<kGroupsAfter>(queries_in_memory_, Lds());
    // In LDS they are for everyone when the first tile is.
    if constexpr (kParts > 1 || !kShape.query_in_lds) {
      special_queries_ = BarrierWith<(kParts > 1)>(special_queries_);
    }
    if constexpr (!kShape.query_in_lds) {
      ATTND_UNROLL
      for (int part = 0; part < kParts; ++part) {
        ATTND_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          ATTND_UNROLL
          for (int step = 0; step < kSteps; ++step) {
            queries_[part][m][step] = QueryFromLds(part, m, step, lane_);
          }
        }
      }
      if constexpr (kLds.query_in_ring) BlockBarrier();
    }
    if constexpr (kLds.query_in_ring) StartTiles();
  }
  ATTND_ACCESSOR Query QueryFromLds(int part, int row_tile, int step, int lane) const {
    return Mma::template LoadQuery<kDim>(Lds() + part * kPartQueryBytes, wave_row_ + 16 * row_tile,
                                         step, lane);
  }

  // ---- the ring of tiles

  template <bool kCollect>
  ATTND_ACCESSOR bool BarrierWith(bool mine) {
    if constexpr (kCollect) return vote_.Any(mine);
    BlockBarrier();
    return false;
  }

  // Of K (even) and V (odd) tiles in the order of their use.
  template <bool kValues>
  ATTND_ACCESSOR std::byte* TileAt(int slot) const {
    std::byte* ring = Lds() + kLds.tile_offset;
    if constexpr (kShape.stages == 1) return ring;
    if constexpr (kShape.stages == 2) return ring + (kValues ? kLds.tile_bytes : 0);
    return ring + slot * kLds.tile_bytes;
  }
  ATTND_MEMBER int NextSlot(int slot) { return slot + 1 == kShape.stages ? 0 : slot + 1; }

  // Issues the next load of the sequence K, V, K, V, ...; past the last there is none.
  template <bool kValues>
  ATTND_ACCESSOR void IssueNext() {
    if (issue_tile_ < num_tiles_) {
      const int key0 = key0_ + issue_tile_ * kKeys;
      if constexpr (!kValues) loader_.Advance();
      loader_.template Issue<kValues>(source_, key0, TileAt<kValues>(issue_slot_));
      if constexpr (!kValues) loader_.Locate(source_, key0 + kKeys);
    }
    if constexpr (kValues) ++issue_tile_;
    issue_slot_ = NextSlot(issue_slot_);
    if constexpr (Loader::kAsync) Mma::CommitCopies();
  }

  // Waits until the tile in use is in LDS and starts the load that takes the freed place. Returns
  // whether the tile had NaN or infinities.
  template <bool kValues>
  ATTND_ACCESSOR bool Arrive(int key0, bool masked) {
    // NaN among values must not meet the zero weights of rows that do not see it.
    constexpr bool kCollects = kValues || kParts > 1;
    if constexpr (Loader::kInPlace) {
      BlockBarrier();  // everyone is done with the tile before
      if constexpr (!kValues) loader_.Advance();
    }
    bool special = loader_.template Commit<kValues>(source_, key0, kValues && masked,
                                                    TileAt<kValues>(use_slot_));
    if constexpr (Loader::kInPlace && !kValues) loader_.Locate(source_, key0 + kKeys);
    if (kCollects && (masked || kParts > 1)) {
      special = vote_.Any(special);
    } else {
      BlockBarrier();
      special = false;
    }
    if constexpr (!Loader::kInPlace) {
      // The number of loads on their way is odd where stages are even: the next is of the other
      // kind.
      constexpr bool kNextIsValues = kValues == (kShape.stages % 2 == 1 && Loader::kAsync);
      IssueNext<kNextIsValues>();
    }
    return special;
  }

  // The first tiles, as many as there is room for.
  ATTND_ACCESSOR void StartTiles() {
    if constexpr (!Loader::kAsync) {
      if (num_tiles_ > 0) loader_.Locate(source_, key0_);
      if constexpr (!Loader::kInPlace) IssueNext<false>();
    } else {
      constexpr int kTiles = kShape.stages / 2;  // of keys
      KvSource::Place places[kTiles];
      ATTND_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        loader_.Locate(source_, key0_ + tile * kKeys);
        places[tile] = loader_.next();
      }
      ATTND_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        loader_.set_next(places[tile]);
        IssueNext<false>();
        if (2 * tile + 1 < kShape.stages - 1) IssueNext<true>();
      }
    }
  }

  // Splits one after another; tiles of the next are on their way while one ends.
  ATTND_ACCESSOR void VisitSplits() {
    if constexpr (kPhase == Phase::kPrefill) {
      VisitTiles(0, num_tiles_);
      Finish(Lds(), 0, true);
    } else {
      const int tiles = task_.split_keys / kKeys;
      int split = 0, tile = 0;
      do {
        const int end = num_tiles_ - tile < tiles ? num_tiles_ : tile + tiles;
        VisitTiles(tile, end);
        // Of LDS the last tile's place is free, until the loads after it.
        Finish(TileAt<true>(free_slot_), split, end == num_tiles_);
        ++split;
        tile = end;
      } while (tile < num_tiles_);
    }
    if (task_.range >= 0 && IsLastOfRange(args_, task_, of_.kv_head, vote_)) {
      MergeRows(args_, task_, item_, queries_in_memory_.rows, unit_, kThreads);
    }
  }

  ATTND_ACCESSOR void Finish(std::byte* lds, int split, bool last) const {
    // Opaque: its addresses are not held in registers during the tiles.
    const Epilogue<Mma, kCore, kCompute, kDim, kPhase> epilogue{
        args_, item_, task_, of_, queries_in_memory_.rows, unit_, Opaque(lane_), wave_};
    epilogue.Finish(lds, split, last, {out_, largest_, sum_});
  }

  ATTND_ACCESSOR void VisitTiles(int tile, int end) {
    ATTND_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      ATTND_UNROLL
      for (int d = 0; d < kDimTiles; ++d) out_[m][d] = Acc{};
      ATTND_UNROLL
      for (int r = 0; r < kRowSlots; ++r) {
        largest_[m][r] = MinusInfinity();
        sum_[m][r] = 0.0f;
      }
    }
    // Masked tiles are at the ends. Each kind has a loop of its own: in a common one, registers of
    // the masked tiles would be spilled in the others too.
    while (tile < end) {
      for (; tile < end && !AllSee(tile); ++tile) VisitTile<true>(key0_ + tile * kKeys);
      for (; tile < end && AllSee(tile); ++tile) VisitTile<false>(key0_ + tile * kKeys);
    }
  }
  // Whether every row sees every key of the tile.
  ATTND_ACCESSOR bool AllSee(int tile) const {
    const int key0 = key0_ + tile * kKeys;
    return key0 >= seen_by_all_.begin && key0 + kKeys <= seen_by_all_.end &&
           !(kGeneral && item_.tree_mask != nullptr);
  }

  template <bool kMasked>
  ATTND_ACCESSOR void VisitTile(int key0) {
    Acc scores[kRowTiles][kKeyTiles];
    const bool special_keys = Arrive<false>(key0, kMasked);
    MultiplyKeys(TileAt<false>(use_slot_), scores);
    if constexpr (kParts > 1) {
      if (special_keys || special_queries_) MultiplySpecial(key0, scores);
    }
    use_slot_ = NextSlot(use_slot_);

    float rescale[kRowTiles][kRowSlots];
    ATTND_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      if constexpr (kGeneral) ShapeScores(key0, m, scores[m]);
      if constexpr (kMasked) MaskScores(key0, m, scores[m]);
      Softmax<Mma, kParts>(scores[m], unit_, largest_[m], sum_[m], rescale[m]);
      if constexpr (kGeneral) DropWeights(key0, m, scores[m]);
      if constexpr (kParts == 1) {
        ATTND_UNROLL
        for (int d = 0; d < kDimTiles; ++d) {
          ATTND_UNROLL
          for (int i = 0; i < Mma::kAccElems; ++i) {
            out_[m][d][i] *= rescale[m][Mma::RowSlot(i)];
          }
        }
      }
    }
    Query weights[kParts][kRowTiles][kKeyGroups];
    ATTND_UNROLL
    for (int m = 0; m < kRowTiles; ++m) CutWeights(scores[m], m, weights);

    const bool special_values = Arrive<true>(key0, kMasked);
    if constexpr (kParts == 1) {
      MultiplyWholeValues(TileAt<true>(use_slot_), weights[0]);
      if (special_values) {
        const SpecialValues found = FindSpecialValues(key0);
        ATTND_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          ATTND_UNROLL
          for (int d = 0; d < kDimTiles; ++d) found.PutNaN(m, d, out_[m][d]);
        }
      }
    } else {
      SpecialValues found;
      if (special_values) found = FindSpecialValues(key0);
      MultiplyValueParts(TileAt<true>(use_slot_), weights, rescale, special_values, found);
    }
    free_slot_ = use_slot_;
    use_slot_ = NextSlot(use_slot_);
  }

  // The lane, for LDS addresses. The options of the general kernels leave RDNA no registers to hold
  // those in.
  ATTND_ACCESSOR int RematLane() const {
    constexpr bool kOpaque = Loader::kRemat || (kGeneral && Mma::kWaveSize == 32);
    return kOpaque ? Opaque(lane_) : Mma::Remat(lane_);
  }

  // ---- scores

  ATTND_ACCESSOR void MultiplyKeys(const std::byte* tile, Acc (&scores)[kRowTiles][kKeyTiles]) {
    const int lane = RematLane();
    if constexpr (kParts > 1) {
      MultiplyKeyParts(tile, lane, scores);
    } else {
      MultiplyWholeKeys(tile, lane, scores);
    }
  }
  ATTND_ACCESSOR void MultiplyWholeKeys(const std::byte* tile, int lane,
                                        Acc (&scores)[kRowTiles][kKeyTiles]) {
    ATTND_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      ATTND_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) scores[m][n] = Acc{};
    }
    ATTND_UNROLL
    for (int step = 0; step < kSteps; ++step) {
      Query queries[kRowTiles];
      ATTND_UNROLL
      for (int m = 0; m < kRowTiles; ++m) queries[m] = QueryAt(0, m, step, lane);
      ATTND_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        const Key key =
            Mma::template LoadKey<kDim>(tile, n / kSubs, n % kSubs, step, lane, key_base_);
        ATTND_UNROLL
        for (int m = 0; m < kRowTiles; ++m) Mma::MultiplyAdd(scores[m][n], queries[m], key);
      }
    }
  }
  ATTND_ACCESSOR Query QueryAt(int part, int row_tile, int step, int lane) const {
    if constexpr (kShape.query_in_lds) {
      return QueryFromLds(part, row_tile, step, lane);
    } else {
      return queries_[part][row_tile][step];
    }
  }

  // Products of parts, by the power of 2^-7 that they count for. Matrix cores may cut what they add
  // up instead of rounding it: few large products are added up there, and the rest is plain
  // arithmetic.
  ATTND_ACCESSOR void MultiplyKeyParts(const std::byte* tile, int lane,
                                       Acc (&scores)[kRowTiles][kKeyTiles]) {
    constexpr int kStepsAtOnce = 64 / Mma::kDepth;
    ATTND_UNROLL
    for (int n = 0; n < kKeyTiles; ++n) {
      ATTND_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        Acc sums[kParts];
        ATTND_UNROLL
        for (int order = 0; order < kParts; ++order) sums[order] = Acc{};
        ATTND_UNROLL
        for (int step = 0; step < kSteps; ++step) {
          Query queries[kParts];
          Key keys[kParts];
          ATTND_UNROLL
          for (int part = 0; part < kParts; ++part) {
            queries[part] = QueryAt(part, m, step, lane);
            keys[part] = Mma::template LoadKey<kDim>(tile + part * kPartKeyBytes, n / kSubs,
                                                     n % kSubs, step, lane, key_base_);
          }
          MultiplyParts(sums, queries, keys);
          if (step % kStepsAtOnce == kStepsAtOnce - 1) {
            ATTND_UNROLL
            for (int i = 0; i < Mma::kAccElems; ++i) {
              scores[m][n][i] = step < kStepsAtOnce ? sums[0][i] : scores[m][n][i] + sums[0][i];
            }
            sums[0] = Acc{};
            if constexpr (Loader::kInPlace) ScheduleFence();
          }
        }
        ATTND_UNROLL
        for (int i = 0; i < Mma::kAccElems; ++i) scores[m][n][i] += LowOrders(sums, i);
      }
    }
  }
  // The pairs of parts that matter: the others lie below the last bit of the largest product.
  ATTND_MEMBER void MultiplyParts(Acc (&sums)[kParts], const Query (&queries)[kParts],
                                  const Key (&keys)[kParts]) {
    ATTND_UNROLL
    for (int q = 0; q < kParts; ++q) {
      ATTND_UNROLL
      for (int k = 0; q + k < kParts; ++k) Mma::MultiplyAdd(sums[q + k], queries[q], keys[k]);
    }
  }
  ATTND_MEMBER float LowOrders(const Acc (&sums)[kParts], int i) {
    float low = 0.0f;
    ATTND_UNROLL
    for (int order = kParts - 1; order > 0; --order) low = (low + sums[order][i]) * kPartScale;
    return low;
  }

  // Parts hold finite numbers only: the scores of queries and keys with others, by plain
  // arithmetic. One score at a time: what is rare shall keep no registers from what is not.
  ATTND_ACCESSOR void MultiplySpecial(int key0, Acc (&scores)[kRowTiles][kKeyTiles]) {
    ATTND_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      ATTND_ROLLED
      for (int j = 0; j < kKeyTiles * Mma::kAccElems; ++j) {
        const int tile = j / Mma::kAccElems, elem = j % Mma::kAccElems;
        const int row = RowOf(m, Mma::RowSlot(elem)), key = KeyOf(key0, tile, elem);
        if (row >= task_.row_end || key >= task_.key_end) continue;
        const TypedRow k{source_.type, source_.template Row<false>(source_.Find(key))};
        float product;
        if (!SpecialProduct({args_.q_type, queries_in_memory_.Row(row)}, k, source_.head_dim_k,
                            item_.query_sign, product)) {
          continue;
        }
        ATTND_UNROLL
        for (int n = 0; n < kKeyTiles; ++n) {
          ATTND_UNROLL
          for (int i = 0; i < Mma::kAccElems; ++i) {
            if (n == tile && i == elem) scores[m][n][i] = product;
          }
        }
      }
    }
  }

  // General scores, in natural units: scaled, then capped, then biased.
  ATTND_ACCESSOR void ShapeScores(int key0, int row_tile, Acc (&scores)[kKeyTiles]) {
    ATTND_UNROLL
    for (int n = 0; n < kKeyTiles; ++n) {
      ATTND_UNROLL
      for (int i = 0; i < Mma::kAccElems; ++i) scores[n][i] *= item_.scale;
    }
    if (item_.softcap > 0.0f) {
      const float inverse = 1.0f / item_.softcap;
      ATTND_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        ATTND_UNROLL
        for (int i = 0; i < Mma::kAccElems; ++i) {
          scores[n][i] = item_.softcap * Tanh(scores[n][i] * inverse);
        }
      }
    }
    if (item_.alibi_slopes != nullptr) {
      float slopes[kRowSlots];
      int positions[kRowSlots];
      ATTND_UNROLL
      for (int r = 0; r < kRowSlots; ++r) {
        const int row = RowOf(row_tile, r);
        slopes[r] = item_.alibi_slopes[HeadOf(row)];
        positions[r] = Opaque(item_.start_position + QueryOf(row));
      }
      ATTND_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        ATTND_UNROLL
        for (int i = 0; i < Mma::kAccElems; ++i) {
          const int r = Mma::RowSlot(i);
          const int distance = positions[r] - KeyOf(key0, n, i);
          scores[n][i] -= slopes[r] * fabsf(static_cast<float>(distance));
        }
      }
    }
  }

  // Whether `query`, to which causality and the window leave `seen`, sees `key`.
  ATTND_ACCESSOR bool Sees(int query, Range seen, int key) const {
    if (key < seen.begin || key >= seen.end) return false;
    return !kGeneral || TreeAllows(item_, query, key);
  }
  ATTND_ACCESSOR void MaskScores(int key0, int row_tile, Acc (&scores)[kKeyTiles]) {
    ATTND_UNROLL
    for (int r = 0; r < kRowSlots; ++r) {
      const int query = QueryOf(RowOf(row_tile, r));
      const Range seen = VisibleKeys(item_, task_, query);
      ATTND_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        ATTND_UNROLL
        for (int i = 0; i < Mma::kAccElems; ++i) {
          if (Mma::RowSlot(i) != r) continue;
          const int key = KeyOf(key0, n, i);
          if (!Sees(query, seen, key)) scores[n][i] = MinusInfinity();
        }
      }
    }
  }

  // After the sum, which knows no dropout.
  ATTND_ACCESSOR void DropWeights(int key0, int row_tile, Acc (&weights)[kKeyTiles]) {
    if (item_.dropout_threshold == 0) return;
    ATTND_UNROLL
    for (int n = 0; n < kKeyTiles; ++n) {
      ATTND_UNROLL
      for (int i = 0; i < Mma::kAccElems; i += Mma::kNeighbours) {
        const int row = RowOf(row_tile, Mma::RowSlot(i));
        bool keeps[Mma::kNeighbours];
        DropoutKeeps(item_, QueryOf(row), HeadOf(row), KeyOf(key0, n, i), keeps);
        ATTND_UNROLL
        for (int j = 0; j < Mma::kNeighbours; ++j) {
          if (!keeps[j]) weights[n][i + j] = 0.0f;
        }
      }
    }
  }

  // Weights to operands.
  ATTND_ACCESSOR void CutWeights(Acc (&weights)[kKeyTiles], int row_tile,
                                 Query (&to)[kParts][kRowTiles][kKeyGroups]) {
    ATTND_UNROLL
    for (int g = 0; g < kKeyGroups; ++g) {
      Query parts[kParts];
      WeightsToOperands<Mma>(&weights[g * kSubs], lane_, parts);
      ATTND_UNROLL
      for (int part = 0; part < kParts; ++part) to[part][row_tile][g] = parts[part];
    }
  }

  // ---- values

  // Which numbers of the lane's output become NaN: their rows see a value there that is not finite,
  // and the tile had a zero in its place. A bit for each number, so that the loops that look for
  // them need few registers beside the output's.
  struct SpecialValues {
    static constexpr int kTiles = kDimTiles < 32 / Mma::kAccElems ? kDimTiles : 32 / Mma::kAccElems;
    static constexpr int kWords = kDimTiles / kTiles;
    uint32_t bits[kRowTiles][kWords];  // kTiles tiles of dims in a word

    ATTND_ACCESSOR void PutNaN(int row_tile, int dim_tile, Acc& to) const {
      ATTND_UNROLL
      for (int i = 0; i < Mma::kAccElems; ++i) {
        const int bit = dim_tile % kTiles * Mma::kAccElems + i;
        if ((bits[row_tile][dim_tile / kTiles] >> bit & 1u) != 0) to[i] = NaN();
      }
    }
  };

  ATTND_ACCESSOR void MultiplyWholeValues(const std::byte* tile,
                                          const Query (&weights)[kRowTiles][kKeyGroups]) {
    const int lane = RematLane();
    ATTND_UNROLL
    for (int g = 0; g < kKeyGroups; ++g) {
      ATTND_UNROLL
      for (int d = 0; d < kDimTiles; ++d) {
        const Key value =
            Mma::template LoadValue<kValueRow>(tile, d / kSubs, d % kSubs, g, lane, key_base_);
        ATTND_UNROLL
        for (int m = 0; m < kRowTiles; ++m) Mma::MultiplyAdd(out_[m][d], weights[m][g], value);
      }
    }
  }
  // Each tile starts from zero, or from NaN, and its result is added by plain arithmetic: see
  // MultiplyKeyParts.
  ATTND_ACCESSOR void MultiplyValueParts(const std::byte* tile,
                                         const Query (&weights)[kParts][kRowTiles][kKeyGroups],
                                         const float (&rescale)[kRowTiles][kRowSlots],
                                         bool has_special, const SpecialValues& special) {
    const int lane = RematLane();
    ATTND_UNROLL
    for (int d = 0; d < kDimTiles; ++d) {
      ATTND_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        Acc sums[kParts];
        ATTND_UNROLL
        for (int order = 0; order < kParts; ++order) sums[order] = Acc{};
        if (has_special) special.PutNaN(m, d, sums[0]);
        ATTND_UNROLL
        for (int g = 0; g < kKeyGroups; ++g) {
          Query parts[kParts];
          Key values[kParts];
          ATTND_UNROLL
          for (int part = 0; part < kParts; ++part) {
            parts[part] = weights[part][m][g];
            values[part] = Mma::template LoadValue<kValueRow>(
                tile + part * kPartKeyBytes, d / kSubs, d % kSubs, g, lane, key_base_);
          }
          MultiplyParts(sums, parts, values);
        }
        ATTND_UNROLL
        for (int i = 0; i < Mma::kAccElems; ++i) {
          out_[m][d][i] =
              out_[m][d][i] * rescale[m][Mma::RowSlot(i)] + (sums[0][i] + LowOrders(sums, i));
        }
        // The compiler would put this off to the end of the loop, and hold all sums.
        out_[m][d] = Opaque(out_[m][d]);
        if constexpr (Loader::kInPlace) ScheduleFence();
      }
    }
  }

  ATTND_ACCESSOR SpecialValues FindSpecialValues(int key0) const {
    SpecialValues found = {};
    ATTND_ROLLED
    for (int j = 0; j < kShape.keys_per_wave(); ++j) {
      const int key = key0 + key_base_ + j;
      if (key < task_.key_begin || key >= task_.key_end) continue;
      const std::byte* value = source_.template Row<true>(source_.Find(key));
      ATTND_UNROLL
      for (int m = 0; m < kRowTiles; ++m) {
        bool sees[kRowSlots];
        bool any_sees = false;
        ATTND_UNROLL
        for (int r = 0; r < kRowSlots; ++r) {
          const int query = QueryOf(RowOf(m, r));
          sees[r] = Sees(query, VisibleKeys(item_, task_, query), key);
          any_sees |= sees[r];
        }
        if (!any_sees) continue;
        ATTND_UNROLL
        for (int word = 0; word < SpecialValues::kWords; ++word) {
          ATTND_ROLLED
          for (int d = 0; d < SpecialValues::kTiles; ++d) {
            ATTND_UNROLL
            for (int i = 0; i < Mma::kAccElems; ++i) {
              const int dim = DimOf<Mma>(lane_, word * SpecialValues::kTiles + d, i);
              const bool special = dim < source_.head_dim_v && sees[Mma::RowSlot(i)] &&
                                   !IsFinite(LoadNumber(source_.type, value, dim));
              found.bits[m][word] |= static_cast<uint32_t>(special) << (d * Mma::kAccElems + i);
            }
          }
        }
      }
    }
    return found;
  }

  const AttendArgs& args_;
  const Item& item_;
  const AttendTask task_;
  const TaskOfBlock of_;
  const QuerySource queries_in_memory_{item_.q,       {args_.group, of_.kv_head}, task_.row_begin,
                                       task_.row_end, args_.head_dim_k,           item_.query_sign,
                                       args_.q_type};
  const KvSource source_{item_.k + of_.kv_head * item_.k_head_stride_bytes,
                         item_.v + of_.kv_head* item_.v_head_stride_bytes,
                         item_.page_places,
                         item_.page_shift,
                         item_.k_token_stride_bytes,
                         item_.v_token_stride_bytes,
                         item_.page_size,
                         item_.num_pages,
                         task_.key_end,
                         args_.head_dim_k,
                         args_.head_dim_v,
                         args_.kv_type};
  // 2^(score * unit_) is the weight of a score; general scores are in natural units already.
  const float unit_ = kGeneral ? kLog2E : item_.scale * kLog2E;
  Loader loader_;
  int lane_, wave_;
  int key_base_;   // of the wave's keys in a tile
  int wave_row_;   // of the wave's rows in the block
  int first_row_;  // of the lane, in the item
  int key0_;
  int num_tiles_;
  Range seen_by_all_;
  bool special_queries_ = false;
  BlockVote vote_;  // on NaN and infinities
  int issue_tile_ = 0, issue_slot_ = 0, use_slot_ = 0, free_slot_ = 0;

  Query queries_[kParts][kRowTiles][kShape.query_in_lds ? 1 : kSteps];
  Acc out_[kRowTiles][kDimTiles];
  float largest_[kRowTiles][kRowSlots];
  float sum_[kRowTiles][kRowSlots];
};

#endif  // ATTND_DEVICE_CODE

// What registers must leave room for: on NVIDIA blocks of a multiprocessor, on AMD waves of a SIMD.
// Two waves on CDNA's keep the accumulators out of the accumulation registers: a third of the
// loop's instructions would be moves from there.
constexpr int MinResident(Core core, Compute compute, int dim, Phase phase) {
  if (core == Core::kNvMma) {
    return phase == Phase::kDecode && dim <= 128 && NumParts(compute) == 1 ? 2 : 1;
  }
  return WaveSize(core) == 64 ? 2 : 1;
}
template <class TargetT, Compute kCompute, int kDim, Phase kPhase, bool kGeneral>
__global__ void __launch_bounds__(
    TileShapeFor(TargetT::kCore, kCompute, kDim, kPhase).threads(TargetT::kCore),
    MinResident(TargetT::kCore, kCompute, kDim, kPhase)) AttendKernel(const AttendArgs args) {
#if ATTND_DEVICE_CODE
  AttendBlock<TargetT, kCompute, kDim, kPhase, kGeneral>::Run(args);
#endif
}

}  // namespace attnd::gpu
