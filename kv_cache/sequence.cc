// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/sequence.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/error_detail.h"

namespace attnd {

Sequence::Sequence(SessionId session, Cache& cache, DeviceIndex device, std::string client_state,
                   std::span<const PageId> pages, TokenCount length)
    : session_(session),
      cache_(cache),
      place_(cache.on(device)),
      layers_(static_cast<size_t>(cache.geometry.num_layers), Layer{.length = length}),
      max_length_(length),
      pages_(place_.pages),
      client_state_version_(client_state.empty() ? 0 : 1) {
  client_state_ = std::make_shared<const std::string>(std::move(client_state));
  pages_.Share(pages.first(PagesOf(TokenCount(0), length).end));
  ++place_.num_sequences;
}

Sequence::Sequence(const Sequence& parent, TokenCount length)
    : session_(parent.session_),
      cache_(parent.cache_),
      place_(parent.place_),
      layers_(parent.layers_.size()),
      pages_(place_.pages),
      client_state_(parent.client_state_),
      client_state_version_(parent.client_state_version_) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].length = std::min(parent.layers_[i].length, length);
    max_length_ = std::max(max_length_, layers_[i].length);
  }
  pages_.Share(parent.pages_.pages().first(PagesOf(TokenCount(0), max_length_).end));
  ++place_.num_sequences;
}

Sequence::~Sequence() { --place_.num_sequences; }

absl::Status Sequence::CheckRange(const LayerAccess& access) const {
  if (access.layer.value() >= layers_.size()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "layer %d is out of range: the cache has %d layers", access.layer.value(), layers_.size()));
  }
  const int64_t start = access.start_position.value();
  const int64_t count = access.num_tokens.value();
  if (start < 0 || start > kMaxSequenceTokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("start_position is %d; it must be 0 to %d", start, kMaxSequenceTokens));
  }
  if (count < 1 || count > kMaxSequenceTokens - start) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the item has %d tokens at position %d; it must have at least 1 and end "
                        "by %d",
                        count, start, kMaxSequenceTokens));
  }
  if (access.write && access.step == 0) {
    return absl::InvalidArgumentError("step is 0; the steps of writes start at 1");
  }
  if (access.kv_length && (access.write || *access.kv_length < TokenCount(0))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("kv_length is %d; it must not be negative, and goes with reads only",
                        access.kv_length->value()));
  }
  return absl::OkStatus();
}

bool Sequence::StepApplied(const LayerAccess& access) const {
  return access.step <= layers_[access.layer.value()].step;
}

std::optional<PageShortage> Sequence::Reserve(const LayerAccess& access) {
  // How far the sequence can reach by the item's turn: what is promised to a hole is bounded.
  const TokenCount reach =
      pages_.num_reservations() > 0 ? std::max(max_length_, reserved_end_) : max_length_;
  const TokenCount start = std::min(access.start_position, reach);
  const TokenCount end = start + access.num_tokens;
  if (const std::optional<PageShortage> shortage = pages_.Reserve(PagesOf(start, end))) {
    return shortage;
  }
  reserved_end_ = std::max(reach, end);
  return std::nullopt;
}

absl::StatusOr<Sequence::Kind> Sequence::Check(const LayerAccess& access) const {
  ATTND_RETURN_IF_ERROR(CheckRange(access));
  const Layer& layer = layers_[access.layer.value()];
  const TokenCount end = access.start_position + access.num_tokens;
  if (!access.write) {
    const TokenCount read_end = access.kv_length.value_or(end);
    if (read_end <= layer.length) return Kind::kRead;
    return absl::FailedPreconditionError(
        absl::StrFormat("a read to position %d in layer %d, which holds %d tokens",
                        read_end.value(), access.layer.value(), layer.length.value()));
  }
  if (access.step < layer.step) {
    return AttachErrorDetail(
        absl::AbortedError(absl::StrFormat("step %d of layer %d was superseded by step %d",
                                           access.step, access.layer.value(), layer.step)),
        {.reason = ErrorReason::kSuperseded});
  }
  if (access.step == layer.step) {
    if (access.start_position != layer.start || access.num_tokens != layer.num_tokens) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "step %d of layer %d was applied to %d tokens at position %d, not to %d at %d; a new "
          "write needs a higher step",
          access.step, access.layer.value(), layer.num_tokens.value(), layer.start.value(),
          access.num_tokens.value(), access.start_position.value()));
    }
    if (end > layer.length) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "step %d of layer %d was applied up to position %d, but the layer was truncated to %d "
          "tokens since; a new write needs a higher step",
          access.step, access.layer.value(), end.value(), layer.length.value()));
    }
    return Kind::kReplay;
  }
  if (access.start_position > layer.length) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "a write at position %d of layer %d, which holds %d tokens, would leave a hole",
        access.start_position.value(), access.layer.value(), layer.length.value()));
  }
  return Kind::kWrite;
}

void Sequence::Apply(const LayerAccess& access) {
  Layer& layer = layers_[access.layer.value()];
  const TokenCount end = access.start_position + access.num_tokens;
  const bool shrinks = end < layer.length;
  layer = {.length = end,
           .step = access.step,
           .start = access.start_position,
           .num_tokens = access.num_tokens};
  max_length_ = std::max(max_length_, end);
  if (shrinks) ShrinkToLongestLayer();
}

void Sequence::Truncate(TokenCount length) {
  for (Layer& layer : layers_) layer.length = std::min(layer.length, length);
  ShrinkToLongestLayer();
}

absl::Status Sequence::CheckComplete(int64_t first, int64_t count) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const int64_t complete = layers_[i].length.value() / page_size().value();
    if (first <= complete - count) continue;
    return absl::FailedPreconditionError(
        absl::StrFormat("layer %d holds %d tokens, %d full pages of %d; %d pages from page %d on "
                        "must be complete in "
                        "every layer",
                        i, layers_[i].length.value(), complete, page_size().value(), count, first));
  }
  return absl::OkStatus();
}

PageRange Sequence::PagesOf(TokenCount start, TokenCount end) const {
  return {.first = static_cast<size_t>(start.value() / page_size().value()),
          .end = static_cast<size_t>(PagesFor(end, page_size()).value())};
}

void Sequence::ReplaceClientState(std::string state) {
  client_state_ = std::make_shared<const std::string>(std::move(state));
  ++client_state_version_;
}

void Sequence::ShrinkToLongestLayer() {
  max_length_ = TokenCount(0);
  for (const Layer& layer : layers_) max_length_ = std::max(max_length_, layer.length);
  pages_.Shrink(PagesOf(TokenCount(0), max_length_).end);
}

absl::Status Sequence::CheckIntegrity() const {
  TokenCount longest;
  for (const Layer& layer : layers_) longest = std::max(longest, layer.length);
  if (longest != max_length_) {
    return absl::InternalError(absl::StrFormat("the longest layer has %d tokens, not %d",
                                               longest.value(), max_length_.value()));
  }
  if (pages_.size() != PagesOf(TokenCount(0), longest).end) {
    return absl::InternalError(
        absl::StrFormat("%d pages for %d tokens", pages_.size(), longest.value()));
  }
  return pages_.CheckIntegrity();
}

}  // namespace attnd
