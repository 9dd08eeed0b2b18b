// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/kernel_table.h"

#include <cstddef>
#include <utility>

namespace attnd::gpu {

// Explicit specialisations live in other files; declared, so that none is instantiated here.
#define ATTND_DECLARE(table, dim)                               \
  template <>                                                   \
  AttendKernels GetAttendKernels<table, Compute::kF16, dim>();  \
  template <>                                                   \
  AttendKernels GetAttendKernels<table, Compute::kBF16, dim>(); \
  template <>                                                   \
  AttendKernels GetAttendKernels<table, Compute::kF32, dim>();
#define ATTND_DECLARE_TABLE(table)         \
  template <>                              \
  AppendFunction GetAppendKernel<table>(); \
  template <>                              \
  UploadFunction GetUploadKernel<table>(); \
  ATTND_DECLARE(table, 64)                 \
  ATTND_DECLARE(table, 128)                \
  ATTND_DECLARE(table, 256)
#if !defined(ATTND_SIMT_HOST) || defined(ATTND_SIMT_CORE_0)
ATTND_DECLARE_TABLE(0)
#endif
#if defined(ATTND_SIMT_CORE_1)
ATTND_DECLARE_TABLE(1)
#endif
#if defined(ATTND_SIMT_CORE_2)
ATTND_DECLARE_TABLE(2)
#endif
#if defined(ATTND_SIMT_CORE_3)
ATTND_DECLARE_TABLE(3)
#endif
#if defined(ATTND_SIMT_CORE_4)
ATTND_DECLARE_TABLE(4)
#endif

namespace {

template <int kTable, size_t... kDims>
KernelTable MakeTable(std::index_sequence<kDims...>) {
  return {{{GetAttendKernels<kTable, Compute::kF16, kHeadDims[kDims]>()...},
           {GetAttendKernels<kTable, Compute::kBF16, kHeadDims[kDims]>()...},
           {GetAttendKernels<kTable, Compute::kF32, kHeadDims[kDims]>()...}},
          GetAppendKernel<kTable>(),
          GetUploadKernel<kTable>()};
}

template <int kTable>
const KernelTable& Table() {
  static const KernelTable table =
      MakeTable<kTable>(std::make_index_sequence<static_cast<size_t>(kNumHeadDims)>());
  return table;
}

}  // namespace

const KernelTable* KernelTableFor([[maybe_unused]] Core core) {
#if defined(ATTND_SIMT_HOST)
  switch (core) {
#if defined(ATTND_SIMT_CORE_0)
    case Core::kWmmaGfx11:
      return &Table<0>();
#endif
#if defined(ATTND_SIMT_CORE_1)
    case Core::kWmmaGfx12:
      return &Table<1>();
#endif
#if defined(ATTND_SIMT_CORE_2)
    case Core::kMfma:
      return &Table<2>();
#endif
#if defined(ATTND_SIMT_CORE_3)
    case Core::kMfmaGfx950:
      return &Table<3>();
#endif
#if defined(ATTND_SIMT_CORE_4)
    case Core::kNvMma:
      return &Table<4>();
#endif
    default:
      return nullptr;
  }
#else
  return &Table<0>();
#endif
}

}  // namespace attnd::gpu
