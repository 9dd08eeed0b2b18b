// SPDX-License-Identifier: Apache-2.0
//
// Which sanitizer kernels are compiled under, by GCC or clang: ATTND_SIMT_ASAN, ATTND_SIMT_TSAN.
// The build says so where a source goes without it itself.
#pragma once

#ifndef ATTND_SIMT_ASAN
#if defined(__SANITIZE_ADDRESS__)
#define ATTND_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ATTND_SIMT_ASAN 1
#endif
#endif
#endif
#ifndef ATTND_SIMT_ASAN
#define ATTND_SIMT_ASAN 0
#endif

#ifndef ATTND_SIMT_TSAN
#if defined(__SANITIZE_THREAD__)
#define ATTND_SIMT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ATTND_SIMT_TSAN 1
#endif
#endif
#endif
#ifndef ATTND_SIMT_TSAN
#define ATTND_SIMT_TSAN 0
#endif

#if ATTND_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if ATTND_SIMT_TSAN
#include <sanitizer/tsan_interface.h>
#endif
