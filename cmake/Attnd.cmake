# SPDX-License-Identifier: Apache-2.0
#
# How targets are declared here: attnd_library, attnd_executable, attnd_plugin, attnd_test,
# attnd_benchmark.
# Includes are written from the repository root ("kernels/base/units.h"); generated protos from the
# build's proto root ("attnd/v1/attention.pb.h", through the target attnd_proto).

# Compile flags of our own code. An interface target, so that generated code can do without.
add_library(attnd_flags INTERFACE)
target_compile_options(attnd_flags INTERFACE -Wall -Wextra -Werror)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(attnd_flags INTERFACE -Wthread-safety -Werror=thread-safety)
endif()
target_include_directories(attnd_flags INTERFACE "${PROJECT_SOURCE_DIR}")
target_link_libraries(attnd_flags INTERFACE Threads::Threads)

# Line tables in Release: a backtrace or a profile of the shipped binary names its source lines.
# -march stays at the baseline: Highway compiles its own targets and picks one at run time.
add_compile_options($<$<CONFIG:Release>:-g1>)

if(ATTND_SANITIZE STREQUAL "address-undefined")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all)
  add_compile_options(-fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(ATTND_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  # GCC warns of the fences in protobuf's headers, which TSan cannot see.
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
  add_link_options(-fsanitize=thread)
  add_library(attnd_tsan OBJECT "${PROJECT_SOURCE_DIR}/tests/tsan/library_sync.cc")
  target_link_libraries(attnd_tsan PUBLIC gRPC::grpc absl::synchronization)
elseif(NOT ATTND_SANITIZE STREQUAL "none")
  message(FATAL_ERROR
    "ATTND_SANITIZE is '${ATTND_SANITIZE}': use none, address-undefined or thread")
endif()

# `cmake --build ... --target header_selfcheck` compiles each header of each library alone.
add_custom_target(header_selfcheck)

# attnd_library(NAME [SRCS a.cc ...] [HDRS a.h ...] [DEPS target ...] [PRIVATE_DEPS target ...])
# A static library, or a header-only one where SRCS is empty. DEPS are those that the headers need;
# PRIVATE_DEPS only the sources.
function(attnd_library NAME)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SRCS;HDRS;DEPS;PRIVATE_DEPS")
  _attnd_check_arguments("attnd_library(${NAME})")
  if(ARG_SRCS)
    add_library(${NAME} STATIC ${ARG_SRCS} ${ARG_HDRS})
    target_link_libraries(${NAME} PUBLIC ${ARG_DEPS} PRIVATE attnd_flags ${ARG_PRIVATE_DEPS})
    target_include_directories(${NAME} PUBLIC "${PROJECT_SOURCE_DIR}")
  else()
    add_library(${NAME} INTERFACE ${ARG_HDRS})
    target_link_libraries(${NAME} INTERFACE ${ARG_DEPS} ${ARG_PRIVATE_DEPS})
    target_include_directories(${NAME} INTERFACE "${PROJECT_SOURCE_DIR}")
  endif()
  _attnd_header_selfcheck(${NAME} "${ARG_HDRS}")
endfunction()

# attnd_executable(NAME SRCS a.cc ... [DEPS target ...]): a program in build/<preset>/bin.
function(attnd_executable NAME)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SRCS;DEPS")
  _attnd_check_arguments("attnd_executable(${NAME})")
  add_executable(${NAME} ${ARG_SRCS})
  target_link_libraries(${NAME} PRIVATE attnd_flags $<TARGET_NAME_IF_EXISTS:attnd_tsan> ${ARG_DEPS})
endfunction()

# attnd_plugin(NAME OUTPUT name SRCS a.cc ... [DEPS target ...])
# A backend plugin (kernels/backend/plugin.h), libOUTPUT.so in build/<preset>/bin beside the daemon.
function(attnd_plugin NAME)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "OUTPUT" "SRCS;DEPS")
  _attnd_check_arguments("attnd_plugin(${NAME})")
  add_library(${NAME} MODULE ${ARG_SRCS})
  target_link_libraries(${NAME} PRIVATE attnd_flags ${ARG_DEPS})
  set(map "${PROJECT_SOURCE_DIR}/cmake/plugin.map")
  target_link_options(${NAME} PRIVATE -Wl,--version-script=${map} -Wl,-Bsymbolic)
  set_target_properties(${NAME} PROPERTIES
    OUTPUT_NAME ${ARG_OUTPUT}
    LIBRARY_OUTPUT_DIRECTORY "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}"
    LINK_DEPENDS "${map}")
endfunction()

# attnd_embed_page(TARGET file ...)
# Compiles the files of the status page into TARGET, as PageAssets() of
# server/observe/page_assets.h.
function(attnd_embed_page TARGET)
  set(script "${PROJECT_SOURCE_DIR}/cmake/embed_page.cmake")
  set(output "${CMAKE_CURRENT_BINARY_DIR}/page_assets.cc")
  list(TRANSFORM ARGN PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/" OUTPUT_VARIABLE files)
  string(REPLACE ";" "," joined "${files}")
  add_custom_command(OUTPUT "${output}"
    COMMAND "${CMAKE_COMMAND}" "-DOUTPUT=${output}" "-DFILES=${joined}" -P "${script}"
    DEPENDS ${files} "${script}"
    COMMENT "Embedding the status page"
    VERBATIM)
  target_sources(${TARGET} PRIVATE "${output}")
endfunction()

# attnd_test(NAME SRCS a_test.cc ... [DEPS target ...] [LABELS label ...] [TIMEOUT seconds]
#            [SHARDS n] [DISCOVER] [ARGS arg ...])
# One GoogleTest program, and one ctest entry that runs all of it. DISCOVER makes an entry of each
# TEST instead (for few, slow ones); SHARDS n makes n entries that share the cases out between them.
# Tests find the programs that they start under $ATTND_BIN_DIR. The timeout, 120 s unless told, is
# five times as long under a sanitizer or an emulator.
function(attnd_test NAME)
  if(NOT ATTND_BUILD_TESTS)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 ARG "DISCOVER" "TIMEOUT;SHARDS" "SRCS;DEPS;LABELS;ARGS")
  _attnd_check_arguments("attnd_test(${NAME})")
  add_executable(${NAME} ${ARG_SRCS})
  target_link_libraries(${NAME} PRIVATE attnd_flags $<TARGET_NAME_IF_EXISTS:attnd_tsan> ${ARG_DEPS}
    GTest::gmock GTest::gtest_main)
  set_target_properties(${NAME} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests/bin")

  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(CMAKE_CROSSCOMPILING OR NOT ATTND_SANITIZE STREQUAL "none")
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 5")
  endif()
  set(env "ATTND_BIN_DIR=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}" ${ATTND_TEST_ENVIRONMENT})
  if(ARG_DISCOVER)
    include(GoogleTest)
    gtest_discover_tests(${NAME} DISCOVERY_MODE PRE_TEST EXTRA_ARGS ${ARG_ARGS}
      PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}" ENVIRONMENT "${env}")
  elseif(ARG_SHARDS)
    math(EXPR last "${ARG_SHARDS} - 1")
    foreach(shard RANGE ${last})
      add_test(NAME ${NAME}.${shard} COMMAND ${NAME} ${ARG_ARGS})
      set_tests_properties(${NAME}.${shard} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
        ENVIRONMENT "${env};GTEST_TOTAL_SHARDS=${ARG_SHARDS};GTEST_SHARD_INDEX=${shard}")
    endforeach()
  else()
    add_test(NAME ${NAME} COMMAND ${NAME} ${ARG_ARGS})
    set_tests_properties(${NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
      ENVIRONMENT "${env}")
  endif()
endfunction()

# attnd_benchmark(NAME SRCS a_bench.cc ... [DEPS target ...])
# A program in build/<preset>/bench/bin; `make bench` runs it with `--json build/bench/NAME.json`.
function(attnd_benchmark NAME)
  if(NOT ATTND_BUILD_BENCH)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "" "SRCS;DEPS")
  _attnd_check_arguments("attnd_benchmark(${NAME})")
  add_executable(${NAME} ${ARG_SRCS})
  target_link_libraries(${NAME} PRIVATE attnd_flags ${ARG_DEPS} benchmark::benchmark)
  set_target_properties(${NAME} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bench/bin")
endfunction()

# What sanitized tests run with.
if(ATTND_SANITIZE STREQUAL "address-undefined")
  # No fake stack: GCC 12's is aligned to 32 bytes, and a 64-byte vector spilled there faults (GCC
  # bug 110027).
  set(ATTND_TEST_ENVIRONMENT
    "ASAN_OPTIONS=detect_stack_use_after_return=0:strict_string_checks=1"
    "UBSAN_OPTIONS=print_stacktrace=1")
elseif(ATTND_SANITIZE STREQUAL "thread")
  set(suppressions "${PROJECT_SOURCE_DIR}/tests/tsan/suppressions.txt")
  set(ATTND_TEST_ENVIRONMENT
    "TSAN_OPTIONS=suppressions=${suppressions}:halt_on_error=1:second_deadlock_stack=1")
endif()

macro(_attnd_check_arguments WHERE)
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "${WHERE}: what is '${ARG_UNPARSED_ARGUMENTS}'?")
  endif()
endmacro()

# One generated file a header, so that a header which leans on its includer fails by its own name.
function(_attnd_header_selfcheck NAME HDRS)
  set(units)
  foreach(header IN LISTS HDRS)
    file(REAL_PATH "${header}" path BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
    file(RELATIVE_PATH path "${PROJECT_SOURCE_DIR}" "${path}")
    set(unit "${PROJECT_BINARY_DIR}/selfcheck/${path}.cc")
    file(CONFIGURE OUTPUT "${unit}" CONTENT "#include \"${path}\"\n")
    list(APPEND units "${unit}")
  endforeach()
  if(units)
    add_library(${NAME}_selfcheck OBJECT EXCLUDE_FROM_ALL ${units})
    target_link_libraries(${NAME}_selfcheck PRIVATE attnd_flags ${NAME})
    add_dependencies(header_selfcheck ${NAME}_selfcheck)
  endif()
endfunction()
