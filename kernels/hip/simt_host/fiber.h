// SPDX-License-Identifier: Apache-2.0
//
// Fibers: stacks that a thread runs on in turn. A switch is announced to AddressSanitizer and
// ThreadSanitizer, which otherwise take a jump between stacks for memory errors.
//
// On x86-64 a switch is 15 instructions that end in a `ret`. Lanes that wait at one place have the
// same return addresses, so the processor predicts each return on the way back into a kernel:
// Boost.Context's switch, which ends in a jump, costs 7 times as much here. Other processors take
// the C library's swapcontext, which makes a system call.
//
// Thread safety: none; one thread at a time runs fibers. They may be resumed by another thread than
// the one they ran on last.
//
//   Fiber main, worker;
//   CreateFiber(worker, index, body, argument);   // body must never return
//   Switch(main, worker);                         // runs body until it switches back to main
#pragma once

#include <cstddef>

namespace attnd::simt {

// A place to come back to. One without a stack of its own stands for a thread.
struct Fiber {
  void* context = nullptr;  // where it stopped: a stack pointer, or a ucontext_t that it owns
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  void* mapping = nullptr;      // its stack, behind a guard page; nullptr for a thread
  const void* stack = nullptr;  // the lowest byte of the stack it runs on, and the size
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* tsan_fiber = nullptr;  // ThreadSanitizer's
};

// Makes `fiber` start at body(argument) when it is switched to. A fiber that stopped in the middle
// is made anew: what was on its stack is gone, with no destructor run. `index` spreads the stacks
// of a pool over the sets of the caches.
void CreateFiber(Fiber& fiber, size_t index, void (*body)(void*), void* argument);
void DestroyFiber(Fiber& fiber);

// Stops `from`, which is running, and goes on with `to`. Returns when something switches to `from`.
void Switch(Fiber& from, Fiber& to);

// Makes `fiber` stand for the calling thread.
void AdoptThread(Fiber& fiber);

}  // namespace attnd::simt
