// SPDX-License-Identifier: Apache-2.0
//
// The way of a request from bytes to work items, with one session and one sequence to talk about.
// One thread.
//
//   FuzzDaemon daemon;
//   daemon.Receive(data, size);
#pragma once

#include <cstddef>
#include <cstdint>

#include "kv_cache/kv_cache.h"
#include "server/engine/staging.h"
#include "server/rpc/validate.h"
#include "tests/fakes/fake_backend.h"

namespace attnd {

class FuzzDaemon {
 public:
  FuzzDaemon();
  ~FuzzDaemon();
  FuzzDaemon(const FuzzDaemon&) = delete;
  FuzzDaemon& operator=(const FuzzDaemon&) = delete;

  // The first byte: method (bit 0) and size of the pieces; then the message.
  void Receive(const uint8_t* data, size_t size);

  // What a valid request names: the same in every process. 4 query heads over 2, dims 8 and 4.
  SessionRef session() const { return session_; }
  SequenceId sequence() const { return sequence_; }

 private:
  FakePlatform platform_;
  std::byte* pool_;
  KvCache cache_;
  Staging staging_{{&platform_.device()}, Bytes(64u << 20)};
  RequestLimits limits_{.max_items = 64};
  SessionRef session_;
  SequenceId sequence_;
};

}  // namespace attnd
