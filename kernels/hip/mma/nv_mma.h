// SPDX-License-Identifier: Apache-2.0
//
// The tile of NVIDIA's mma.sync (sm_80 and up): S = Q K^T and O = P V, queries as rows of the
// accumulator. A 16 x 16 tile is two m16n8k16. A lane holds two query rows, and its accumulator
// registers are those that the next product wants its A operand in.
//
// Layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix".
#pragma once

#include "kernels/hip/element.h"
#include "kernels/hip/gpu.h"
#include "kernels/hip/lds_tile.h"
#include "kernels/hip/mma/vectors.h"
#include "kernels/hip/numbers.h"
#if ATTND_GPU_SIMT
#include "kernels/hip/simt_host/nv_primitives.h"
#else

namespace attnd::gpu::nv {

ATTND_DEVICE uint32_t LdsAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
ATTND_DEVICE void LoadMatrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(LdsAddress(row)));
}
ATTND_DEVICE void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(LdsAddress(row)));
}
// c[16][8] += a[16][16] b[16][8].
template <class Element>
ATTND_DEVICE void Mma16816(float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
  if constexpr (kIsBFloat16<Element>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}
// Copies 16 bytes from memory to LDS without passing registers; zeros where not valid, and then
// nothing is read.
ATTND_DEVICE void CopyAsync16(void* lds, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(LdsAddress(lds)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
// Ends a group of copies; WaitCopies<N> waits until at most the N newest groups are on their way.
ATTND_DEVICE void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kNewest>
ATTND_DEVICE void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

}  // namespace attnd::gpu::nv
#endif

namespace attnd::gpu {

template <class ElementT>
struct NvMma {
  using Element = ElementT;
  static constexpr int kWaveSize = 32;
  static constexpr int kDepth = 16;
  static constexpr int kAccElems = 8;
  static constexpr int kRowsPerLane = 2;
  static constexpr int kNeighbours = 2;  // elements of an accumulator that are neighbours in a row
  static constexpr bool kValuesTransposed = false;
  static constexpr bool kAsyncCopies = true;
  static constexpr bool kCutsWeights = false;

  struct Query {
    uint32_t r[4];
  };
  using Key = Query;
  struct Acc {
    float v[8];
    ATTND_ACCESSOR float& operator[](int i) { return v[i]; }
    ATTND_ACCESSOR float operator[](int i) const { return v[i]; }
  };

  ATTND_MEMBER constexpr int RowSlot(int i) { return (i >> 1) & 1; }
  ATTND_MEMBER int Row(int lane, int slot) { return (lane >> 2) + 8 * slot; }
  ATTND_MEMBER int Column(int lane, int /*sub*/, int i) {
    return 8 * (i >> 2) + 2 * (lane & 3) + (i & 1);
  }

  template <int kRow>
  ATTND_MEMBER Query LoadQuery(const std::byte* tile, int row, int step, int lane) {
    Query q;
    nv::LoadMatrix4(q.r, LdsTile<kRow>::At(tile, row, lane & 15, 2 * step, lane >> 4));
    return q;
  }
  template <int kRow>
  ATTND_MEMBER Key LoadKey(const std::byte* tile, int group, int /*sub*/, int step, int lane,
                           int key_base) {
    Key k;
    nv::LoadMatrix4(
        k.r, LdsTile<kRow>::At(tile, 16 * group, key_base + (lane & 7) + 8 * (lane >> 4), 2 * step,
                               (lane >> 3) & 1));
    return k;
  }
  // Of a tile [key][dim].
  template <int kRow>
  ATTND_MEMBER Key LoadValue(const std::byte* tile, int dim_group, int /*sub*/, int key_group,
                             int lane, int key_base) {
    Key v;
    nv::LoadMatrix4Transposed(v.r, LdsTile<kRow>::At(tile, 16 * key_group, key_base + (lane & 15),
                                                     2 * dim_group, lane >> 4));
    return v;
  }
  ATTND_MEMBER void MultiplyAdd(Acc& acc, const Query& q, const Key& k) {
    nv::Mma16816<Element>(acc.v, q.r, k.r[0], k.r[1]);
    nv::Mma16816<Element>(acc.v + 4, q.r, k.r[2], k.r[3]);
  }
  ATTND_MEMBER Query ToWeights(const Acc* p, int /*lane*/) {
    Query q;
    ATTND_UNROLL
    for (int i = 0; i < 4; ++i) q.r[i] = RoundPair<Element>(p[0].v[2 * i], p[0].v[2 * i + 1]);
    return q;
  }
  // What a trait with kAsyncCopies has.
  ATTND_MEMBER void CopyAsync16(void* lds, const void* global, bool valid) {
    nv::CopyAsync16(lds, global, valid);
  }
  ATTND_MEMBER void CommitCopies() { nv::CommitCopies(); }
  template <int kNewest>
  ATTND_MEMBER void WaitCopies() {
    nv::WaitCopies<kNewest>();
  }
  ATTND_MEMBER float RowMax(float x) {
    x = fmaxf(x, ShuffleXor(x, 1));
    return fmaxf(x, ShuffleXor(x, 2));
  }
  ATTND_MEMBER float RowSum(float x) {
    x += ShuffleXor(x, 1);
    return x + ShuffleXor(x, 2);
  }
  // The first lane of those that share a row; it alone writes what the row has once.
  ATTND_MEMBER bool LeadsRow(int lane) { return (lane & 3) == 0; }
  ATTND_MEMBER int Remat(int x) { return x; }
};

}  // namespace attnd::gpu
