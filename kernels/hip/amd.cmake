# SPDX-License-Identifier: Apache-2.0
#
# AMD's toolchain (ATTND_HIP=amd): CMake's language HIP, which is ROCm's clang, and the function
# that kernels are compiled with. Included by the top CMakeLists.txt, since a language must be
# enabled above every folder that links its objects.
include("${CMAKE_CURRENT_LIST_DIR}/targets.cmake")
set(CMAKE_HIP_ARCHITECTURES ${ATTND_AMD_TARGETS}
  CACHE STRING "AMD GPUs that the kernels are compiled for")
if(CCACHE_PROGRAM AND NOT DEFINED CMAKE_HIP_COMPILER_LAUNCHER)
  # It knows HIP: device passes count, and with them headers that only one GPU's pass includes.
  set(CMAKE_HIP_COMPILER_LAUNCHER "${CCACHE_PROGRAM}" CACHE STRING "HIP compiler launcher")
endif()
set(CMAKE_HIP_STANDARD 20)
set(CMAKE_HIP_STANDARD_REQUIRED ON)
set(CMAKE_HIP_EXTENSIONS OFF)
enable_language(HIP)
# The target hip::host: the API's headers and libamdhip64, for host code that any compiler compiles.
find_package(hip REQUIRED CONFIG)

# attnd_hip_object(NAME SOURCE file.hip [DEFINITIONS NAME=value ...] [DEPS target ...])
# An object library: one .hip source, compiled with these definitions for the host and for every GPU
# of CMAKE_HIP_ARCHITECTURES into one object. One source may serve many targets with definitions of
# their own; ninja compiles them in parallel. DEPS are targets whose headers it includes. Use it as
#   add_library(plugin MODULE host.cc $<TARGET_OBJECTS:NAME>)
#   set_target_properties(plugin PROPERTIES LINKER_LANGUAGE CXX)
#   target_link_libraries(plugin PRIVATE hip::host)
# Nothing is linked on the device (no -fgpu-rdc): a kernel's templates must be instantiated in the
# source that launches it. LINKER_LANGUAGE keeps the daemon's own toolchain at the link.
function(attnd_hip_object NAME)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "SOURCE" "DEFINITIONS;DEPS")
  _attnd_check_arguments("attnd_hip_object(${NAME})")
  add_library(${NAME} OBJECT "${ARG_SOURCE}")
  target_compile_definitions(${NAME} PRIVATE ${ARG_DEFINITIONS})
  target_include_directories(${NAME} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${NAME} PRIVATE ${ARG_DEPS})
  # -g0 ends the -g1 of Release, which would put line tables into each of seven code objects. The
  # object's unique id is the target's name, where clang would hash the path of the clone. Of
  # warnings, two are not for here: a trait's functions are empty on other GPUs than its own, and
  # whether an occupancy that a launch bound asks for is reached, the code object report judges.
  target_compile_options(${NAME} PRIVATE -fno-gpu-rdc -cuid=${NAME} -g0
    -Wall -Wextra -Werror -Wno-unused-parameter -Wno-error=pass-failed)
  # Clustered, the scheduler moves the LDS reads of a whole product before its first WMMA, and what
  # was loaded ahead goes to scratch: on gfx1100, 195 registers of prefill at head dim 128, and none
  # without.
  target_compile_options(${NAME} PRIVATE "SHELL:-mllvm -misched-cluster=0")
  # The compiler's own dependency file is the host pass's: it misses what devices alone include.
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/hip/*.h")
  set_source_files_properties("${ARG_SOURCE}" PROPERTIES LANGUAGE HIP OBJECT_DEPENDS "${headers}")
endfunction()
