// SPDX-License-Identifier: Apache-2.0
//
// Shows ThreadSanitizer what orders the threads inside libraries that were built without it.
//
// Debian's gRPC synchronises through absl::Mutex and absl::CondVar, which wait on futexes of their
// own, and through completion queues that are in part lock-free: TSan sees none of it, and reports
// a race wherever gRPC hands an object from one thread to another. Their calls go through the
// dynamic linker, so that the definitions here, in the program, come before the library's: each
// does the real thing and tells TSan what it ordered. Linked into every program of the tsan preset
// (cmake/Attnd.cmake) and into nothing else.
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>
#include <string>

#include "absl/base/config.h"
#include "absl/synchronization/mutex.h"

namespace {

#define ATTND_STRING(x) ATTND_STRING_OF(x)
#define ATTND_STRING_OF(x) #x

// The definition that ours stands before.
template <typename Function>
Function* Real(const std::string& symbol) {
  void* address = dlsym(RTLD_NEXT, symbol.c_str());
  if (address == nullptr) std::abort();
  return reinterpret_cast<Function*>(address);
}

// A member of absl's namespace, which has a version in it.
std::string Absl(const std::string& mangled_member) {
  const std::string version = ATTND_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  return "_ZN4absl" + std::to_string(version.size()) + version + mangled_member;
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto real = Real<void(Mutex*)>(Absl("5Mutex4LockEv"));
  real(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto real = Real<void(Mutex*)>(Absl("5Mutex6UnlockEv"));
  __tsan_release(this);
  real(this);
}

bool Mutex::TryLock() {
  static const auto real = Real<bool(Mutex*)>(Absl("5Mutex7TryLockEv"));
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void CondVar::Wait(Mutex* mu) {
  static const auto real = Real<void(CondVar*, Mutex*)>(Absl("7CondVar4WaitEPNS0_5MutexE"));
  __tsan_release(mu);
  real(this, mu);
  __tsan_acquire(mu);
}

bool CondVar::WaitWithTimeout(Mutex* mu, Duration timeout) {
  static const auto real = Real<bool(CondVar*, Mutex*, Duration)>(
      Absl("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE"));
  __tsan_release(mu);
  const bool timed_out = real(this, mu, timeout);
  __tsan_acquire(mu);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mu, Time deadline) {
  static const auto real =
      Real<bool(CondVar*, Mutex*, Time)>(Absl("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE"));
  __tsan_release(mu);
  const bool timed_out = real(this, mu, deadline);
  __tsan_acquire(mu);
  return timed_out;
}

ABSL_NAMESPACE_END
}  // namespace absl

// What was done before a batch started is visible to whoever takes a completed one out of a queue:
// on the same side through the queue, and across the wire through the socket. TSan, too, takes all
// sockets for one synchronisation object; it cannot see these, since it ignores gRPC's own calls.
extern "C" {

static char wire;

grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t num_ops,
                                      void* tag, void* reserved) {
  static const auto real = Real<decltype(grpc_call_start_batch)>("grpc_call_start_batch");
  __tsan_release(&wire);
  return real(call, ops, num_ops, tag, reserved);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline,
                                      void* reserved) {
  static const auto real = Real<decltype(grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = real(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(&wire);
  return event;
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag,
                                       gpr_timespec deadline, void* reserved) {
  static const auto real =
      Real<decltype(grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  const grpc_event event = real(queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(&wire);
  return event;
}

}  // extern "C"
