// SPDX-License-Identifier: Apache-2.0
//
// Objects named by ids that never mean another object: a slot and the slot's generation.
//
// A slot is reused, the one freed last first, under the next generation; it retires before its
// generation would wrap. Objects stay where they are while they live. Iteration is by slot, so
// nothing depends on addresses or hashes. Not thread-safe.
//
//   SlotTable<SequenceId, Sequence> sequences(boot, /*max_live=*/65536);
//   SequenceId id = *sequences.Insert(std::make_unique<Sequence>(...));
//   Sequence* sequence = sequences.Find(id);   // null once erased, whatever took its slot
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kv_cache/ids.h"

namespace attnd {

template <typename Id, typename T>
class SlotTable {
 public:
  // `max_generation` is for tests: the last generation that a slot gives out.
  SlotTable(uint64_t boot, int64_t max_live, uint32_t max_generation = UINT32_MAX)
      : boot_(boot), max_live_(max_live), max_generation_(max_generation) {}

  // Nothing where `max_live` objects live already, or all slots have retired.
  std::optional<Id> Insert(std::unique_ptr<T> object) {
    if (full()) return std::nullopt;
    uint32_t slot;
    if (free_slots_.empty()) {
      slot = static_cast<uint32_t>(slots_.size());
      slots_.emplace_back();
    } else {
      slot = free_slots_.back();
      free_slots_.pop_back();
    }
    ++slots_[slot].generation;
    slots_[slot].object = std::move(object);
    ++num_live_;
    return IdOf(slot);
  }

  T* Find(Id id) { return const_cast<T*>(std::as_const(*this).Find(id)); }
  const T* Find(Id id) const {
    const ObjectId& object = id.object;
    if (object.boot != boot_ || object.slot >= slots_.size()) return nullptr;
    const Slot& slot = slots_[object.slot];
    return slot.generation == object.generation ? slot.object.get() : nullptr;
  }

  // The object, or null for an id that names nothing.
  std::unique_ptr<T> Erase(Id id) {
    if (Find(id) == nullptr) return nullptr;
    Slot& slot = slots_[id.object.slot];
    if (slot.generation < max_generation_) free_slots_.push_back(id.object.slot);
    --num_live_;
    return std::move(slot.object);
  }

  int64_t size() const { return num_live_; }
  bool full() const {
    return num_live_ >= max_live_ || (free_slots_.empty() && slots_.size() > UINT32_MAX);
  }

  // visit(Id, T&), by ascending slot. The visitor must not insert or erase.
  template <typename Visit>
  void ForEach(Visit visit) {
    for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].object != nullptr) visit(IdOf(slot), *slots_[slot].object);
    }
  }
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
      if (slots_[slot].object != nullptr) visit(IdOf(slot), std::as_const(*slots_[slot].object));
    }
  }

 private:
  struct Slot {
    uint32_t generation = 0;
    std::unique_ptr<T> object;
  };

  Id IdOf(uint32_t slot) const {
    return Id(ObjectId{.boot = boot_, .slot = slot, .generation = slots_[slot].generation});
  }

  uint64_t boot_;
  int64_t max_live_;
  uint32_t max_generation_;
  int64_t num_live_ = 0;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
};

}  // namespace attnd
