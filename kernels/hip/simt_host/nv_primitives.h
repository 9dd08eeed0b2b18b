// SPDX-License-Identifier: Apache-2.0
//
// NVIDIA's matrix instructions and asynchronous copies on the host, under the names that
// kernels/hip/mma gives to PTX. Layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16 with
// floating point type", "ldmatrix" and "cp.async".
#pragma once

#include <cstdint>

#include "kernels/hip/element.h"
#include "kernels/hip/simt_host/device.h"
#include "kernels/hip/simt_host/fragments.h"

namespace attnd::simt {

void MultiplyAddNv(bool bfloat16, float* c, const uint32_t* a, uint32_t b0, uint32_t b1,
                   const Site& site);
void LoadMatrices(bool transposed, uint32_t (&r)[4], const void* row, const Site& site);
void CopyAsync(void* lds, const void* global, const Site& site);
void CommitAsync();
void WaitAsync(int pending);

}  // namespace attnd::simt

namespace attnd::gpu::nv {

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: lanes 8m to 8m + 7 point to the rows (16 bytes, in LDS,
// aligned to 16) of matrix m; the lane's register m gets elements 2 (lane % 4) and the next of row
// lane / 4.
inline void LoadMatrix4(uint32_t (&r)[4], const void* row, const char* file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
  simt::LoadMatrices(false, r, row, {"LoadMatrix4", file, line});
}
// The same with .trans: rows 2 (lane % 4) and the next, element lane / 4.
inline void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row,
                                  const char* file = __builtin_FILE(),
                                  int line = __builtin_LINE()) {
  simt::LoadMatrices(true, r, row, {"LoadMatrix4Transposed", file, line});
}

// mma.sync.aligned.m16n8k16.row.col.f32.{f16,bf16}.{f16,bf16}.f32: c (4 registers) += a (4) b (2).
// With g = lane / 4 and t = lane % 4, element e of register i:
//   A: row g + 8 (i % 2), k = 2t + 8 (i / 2) + e;  B: k = 2t + 8i + e, column g;
//   C: register i is row g + 8 (i / 2), column 2t + i % 2.
template <class Element>
void Mma16816(float* c, const uint32_t* a, uint32_t b0, uint32_t b1,
              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::MultiplyAddNv(kIsBFloat16<Element>, c, a, b0, b1, {"Mma16816", file, line});
}

// cp.async.cg.shared.global, 16 bytes; zeros where not valid, and `global` is not read then.
inline void CopyAsync16(void* lds, const void* global, bool valid,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  simt::CopyAsync(lds, valid ? global : nullptr, {"CopyAsync16", file, line});
}
// cp.async.commit_group and cp.async.wait_group.
inline void CommitCopies() { simt::CommitAsync(); }
template <int kPending>
void WaitCopies() {
  simt::WaitAsync(kPending);
}

}  // namespace attnd::gpu::nv
