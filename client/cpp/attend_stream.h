// SPDX-License-Identifier: Apache-2.0
//
// A stream of Attend requests, many in flight: no round trip between one layer's request and the
// next, and no call set-up.
//
// Responses come in order of completion. Nothing is repeated by itself here: a request that the
// daemon refuses gets its status (UNAVAILABLE with a retry delay where its queue is full), and the
// stream goes on. When the connection breaks, every request in flight gets a connection error
// (possibly executed) and the stream is over: open another. Thread-safe.
//
//   std::unique_ptr<AttendStream> stream = session->OpenStream({.max_in_flight = 64});
//   absl::Status sent = stream->Send(items, [](absl::StatusOr<AttendResult> result) { ... });
//   absl::Status status = stream->Finish();   // waits for every callback
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/attend.h"

namespace attnd::client {

struct SessionState;

struct AttendStreamOptions {
  int max_in_flight = 64;
};

class AttendStream {
 public:
  // Cancels what is in flight and waits for its callbacks.
  ~AttendStream();
  AttendStream(const AttendStream&) = delete;
  AttendStream& operator=(const AttendStream&) = delete;

  // Sends a request and returns. Blocks while max_in_flight are without a response, but never when
  // called in a callback, which may go beyond that number. An error means that nothing was sent and
  // that `done` will not run: INVALID_ARGUMENT as for Attend; UNAVAILABLE once the stream is over.
  // `done` runs once, on a thread of the library, one after another in the order of the responses,
  // and must not block; what the items borrow is borrowed until then.
  absl::Status Send(std::span<const AttendItem> items,
                    std::function<void(absl::StatusOr<AttendResult>)> done);

  // Sends no more, waits for what is in flight, and returns how the stream ended.
  absl::Status Finish();

 private:
  friend class Session;
  class Impl;
  explicit AttendStream(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace attnd::client
