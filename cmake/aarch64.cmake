# SPDX-License-Identifier: Apache-2.0
#
# The toolchain of the preset `neon`: Debian's cross compiler, which brings its own C and C++
# libraries, the other libraries for arm64, and qemu-user for the tests.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# What scripts/arm64_sysroot.sh unpacks.
set(CMAKE_FIND_ROOT_PATH "$ENV{HOME}/.cache/attnd/arm64-sysroot")
if(NOT EXISTS "${CMAKE_FIND_ROOT_PATH}/.stamp")
  message(FATAL_ERROR "no ${CMAKE_FIND_ROOT_PATH}: run scripts/install_deps.sh neon")
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# An ARMv8.0 CPU: an instruction that not every AArch64 server has is a failure.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu cortex-a72 -L "${CMAKE_FIND_ROOT_PATH}")
