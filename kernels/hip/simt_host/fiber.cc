// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/simt_host/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "kernels/hip/simt_host/sanitizers.h"

namespace attnd::simt {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// Room for the register arrays of a kernel without optimization, under AddressSanitizer. Untouched
// pages cost nothing.
constexpr size_t kStackBytes = size_t{512} << 10;

struct Transfer {
  Fiber* from;
  Fiber* to;
};

// On the new stack: leaves the note by which the fiber that was left can be resumed.
Fiber& Arrive(transfer_t transfer, void* fake_stack) {
  const auto& [from, to] = *static_cast<const Transfer*>(transfer.data);
  from->context = transfer.fctx;
  Fiber& self = *to;
#if ATTND_SIMT_ASAN
  // The only way to learn where a thread's own stack is: it was left just now.
  __sanitizer_finish_switch_fiber(fake_stack, &from->stack, &from->stack_bytes);
#else
  static_cast<void>(fake_stack);
#endif
  return self;
}

void Enter(transfer_t transfer) {
  Fiber& self = Arrive(transfer, nullptr);
  self.body(self.argument);
  std::abort();  // a body never returns
}

}  // namespace

void CreateFiber(Fiber& fiber, size_t index, void (*body)(void*), void* argument) {
#if ATTND_SIMT_TSAN
  // A new one, which has no history of accesses.
  DestroyFiber(fiber);
  fiber.tsan_fiber = __tsan_create_fiber(0);
#endif
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (fiber.mapping == nullptr) {
    void* mapping = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping, page, PROT_NONE) != 0) {
      std::perror("simt_host: no memory for the stacks of lanes");
      std::abort();
    }
    fiber.mapping = mapping;
    fiber.stack = static_cast<std::byte*>(mapping) + page;
    // Stacks that end at the same offset in their pages would share the same few cache lines.
    fiber.stack_bytes = kStackBytes - (index * 9 % 64) * 64;
  }
#if ATTND_SIMT_ASAN
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
  fiber.fake_stack = nullptr;
  fiber.body = body;
  fiber.argument = argument;
  std::byte* top = static_cast<std::byte*>(fiber.mapping) + page + fiber.stack_bytes;
  fiber.context = make_fcontext(top, fiber.stack_bytes, &Enter);
}

void DestroyFiber(Fiber& fiber) {
  if (fiber.mapping == nullptr) return;
#if ATTND_SIMT_ASAN
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
#if ATTND_SIMT_TSAN
  __tsan_destroy_fiber(fiber.tsan_fiber);
#endif
  munmap(fiber.mapping, static_cast<size_t>(sysconf(_SC_PAGESIZE)) + kStackBytes);
  fiber = Fiber{};
}

void Switch(Fiber& from, Fiber& to) {
  Transfer transfer{&from, &to};
#if ATTND_SIMT_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#if ATTND_SIMT_TSAN
  // Without this flag each switch would order all that came before it, and hide every race.
  __tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
  Arrive(jump_fcontext(to.context, &transfer), from.fake_stack);
}

void AdoptThread(Fiber& fiber) {
  fiber = Fiber{};
#if ATTND_SIMT_TSAN
  fiber.tsan_fiber = __tsan_get_current_fiber();
#endif
}

}  // namespace attnd::simt
