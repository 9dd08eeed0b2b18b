# SPDX-License-Identifier: Apache-2.0
#
# Every library attnd links, all of them Debian packages (scripts/install_deps.sh).
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(absl REQUIRED CONFIG)
find_package(hwy REQUIRED CONFIG)
if(ATTND_BUILD_DAEMON)
  # Debian builds protobuf with autotools: no CMake config, so CMake's own module finds it. It must
  # come before gRPC, whose targets link protobuf::libprotobuf.
  find_package(Protobuf REQUIRED MODULE)
  find_package(gRPC REQUIRED CONFIG)
  find_package(prometheus-cpp REQUIRED CONFIG)
  find_package(spdlog REQUIRED CONFIG)
  find_package(CLI11 REQUIRED CONFIG)
  find_package(nlohmann_json REQUIRED CONFIG)
  find_package(ZLIB REQUIRED)
  find_package(OpenSSL 3.0 REQUIRED)
endif()
if(ATTND_BUILD_TESTS)
  find_package(GTest REQUIRED CONFIG)
  if(ATTND_BUILD_DAEMON)
    find_package(Python3 3.11 REQUIRED COMPONENTS Interpreter)
  endif()
endif()
if(ATTND_BUILD_BENCH)
  find_package(benchmark REQUIRED CONFIG)
endif()
