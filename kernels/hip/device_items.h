// SPDX-License-Identifier: Apache-2.0
//
// From attnd::AttentionItem to gpu::Item, what kernels read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention/params.h"
#include "kernels/hip/args.h"
#include "kernels/hip/upload_ring.h"

namespace attnd {

// INVALID_ARGUMENT names the operand of item `index` that is not aligned.
absl::Status CheckAlignment(const AttentionParams& params, const AttentionItem& item, size_t index);

// How far page offsets are shifted to fit in 32 bits. INVALID_ARGUMENT where none will do, or where
// pages are not aligned.
absl::StatusOr<int> PageShift(const AttentionItem& item, size_t index);

// Bytes that UploadItem writes for an item beside the item itself, at most.
size_t OptionBytes(const AttentionParams& params, const AttentionItem& item);

// The item, its block table and options appended to the upload.
gpu::Item UploadItem(const AttentionParams& params, const AttentionItem& item, int page_shift,
                     UploadWriter& writer);

}  // namespace attnd
