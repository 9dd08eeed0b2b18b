// SPDX-License-Identifier: Apache-2.0
#include "kernels/hip/simt_host/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "kernels/hip/simt_host/sanitizers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__x86_64__)
// Puts what a function must preserve on the stack that is left, and takes it from the other one.
// (The control words of the floating point units are never changed here.)
extern "C" void attnd_simt_switch(void** stopped, void* to);
asm(R"(
.pushsection .text
.type attnd_simt_switch, @function
attnd_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size attnd_simt_switch, . - attnd_simt_switch
.popsection
)");
#endif

namespace attnd::simt {
namespace {

// Room for the register arrays of a kernel without optimization, under AddressSanitizer. Untouched
// pages cost nothing.
constexpr size_t kStackBytes = size_t{512} << 10;

// The two sides of the switch that is going on.
Fiber* left = nullptr;
Fiber* entered = nullptr;

// On the stack that was switched to.
void FinishSwitch([[maybe_unused]] void* fake_stack) {
#if ATTND_SIMT_ASAN
  // The only way to learn where a thread's own stack is: it was left just now.
  __sanitizer_finish_switch_fiber(fake_stack, &left->stack, &left->stack_bytes);
#endif
}

void Start() {
  Fiber& self = *entered;
  FinishSwitch(nullptr);
  self.body(self.argument);
  std::abort();  // a body never returns
}

#if defined(__x86_64__)
void Prepare(Fiber& fiber, std::byte* top) {
  // Below the top: the registers that attnd_simt_switch takes, the address that it returns to, and
  // the return address that Start will never use. A function starts 8 below a multiple of 16.
  auto** const words = reinterpret_cast<void**>(top - 64);
  for (int i = 0; i < 8; ++i) words[i] = nullptr;
  words[6] = reinterpret_cast<void*>(&Start);
  fiber.context = words;
}
void Jump(Fiber& from, Fiber& to) { attnd_simt_switch(&from.context, to.context); }
void DeleteContext(Fiber& fiber) { fiber.context = nullptr; }
#else
void Prepare(Fiber& fiber, std::byte* top) {
  if (fiber.context == nullptr) fiber.context = new ucontext_t;
  auto* const context = static_cast<ucontext_t*>(fiber.context);
  getcontext(context);
  context->uc_stack.ss_sp = const_cast<void*>(fiber.stack);
  context->uc_stack.ss_size = static_cast<size_t>(top - static_cast<const std::byte*>(fiber.stack));
  context->uc_link = nullptr;
  makecontext(context, &Start, 0);
}
void Jump(Fiber& from, Fiber& to) {
  if (from.context == nullptr) from.context = new ucontext_t;  // a thread that is left
  swapcontext(static_cast<ucontext_t*>(from.context), static_cast<ucontext_t*>(to.context));
}
void DeleteContext(Fiber& fiber) {
  delete static_cast<ucontext_t*>(fiber.context);
  fiber.context = nullptr;
}
#endif

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
  Prepare(fiber, static_cast<std::byte*>(fiber.mapping) + page + fiber.stack_bytes);
}

void DestroyFiber(Fiber& fiber) {
  if (fiber.mapping == nullptr) return;
#if ATTND_SIMT_ASAN
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
#if ATTND_SIMT_TSAN
  __tsan_destroy_fiber(fiber.tsan_fiber);
#endif
  DeleteContext(fiber);
  munmap(fiber.mapping, static_cast<size_t>(sysconf(_SC_PAGESIZE)) + kStackBytes);
  fiber = Fiber{};
}

void Switch(Fiber& from, Fiber& to) {
  left = &from;
  entered = &to;
#if ATTND_SIMT_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#if ATTND_SIMT_TSAN
  // Without this flag each switch would order all that came before it, and hide every race.
  __tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
  Jump(from, to);
  FinishSwitch(from.fake_stack);
}

void AdoptThread(Fiber& fiber) {
  DeleteContext(fiber);
  fiber = Fiber{};
#if ATTND_SIMT_TSAN
  fiber.tsan_fiber = __tsan_get_current_fiber();
#endif
}

}  // namespace attnd::simt
