# SPDX-License-Identifier: Apache-2.0
#
# NVIDIA's toolchain (ATTND_HIP=nvidia): CMake's language CUDA, which is nvcc, and the function that
# kernels are compiled with; both have the names and the meaning that amd.cmake gives them. Included
# by the top CMakeLists.txt, since a language must be enabled above every folder that links its
# objects. <hip/hip_runtime.h> is kernels/hip/nvidia's: HIP's names for CUDA's.
set(ATTND_CUDA_ARCHS 80 90
  CACHE STRING "NVIDIA architectures that the kernels are compiled for")
set(CMAKE_CUDA_ARCHITECTURES ${ATTND_CUDA_ARCHS})
list(TRANSFORM CMAKE_CUDA_ARCHITECTURES APPEND "-real")
if(CCACHE_PROGRAM AND NOT DEFINED CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${CCACHE_PROGRAM}" CACHE STRING "CUDA compiler launcher")
endif()
enable_language(CUDA)
# CMake 3.25 knows no C++20 of an nvcc that is newer than itself.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
find_package(CUDAToolkit 13.0 REQUIRED)
# The target hip::host: the API's headers and the runtime, for host code that any compiler compiles.
# The runtime is linked statically: the plugin needs nothing but a driver, which the runtime looks
# for when it is first asked for devices, so that it loads and says so where there is none.
add_library(hip::host INTERFACE IMPORTED GLOBAL)
target_link_libraries(hip::host INTERFACE attnd_hip_nvidia_runtime)

# attnd_hip_object(NAME SOURCE file.hip [DEFINITIONS NAME=value ...] [DEPS target ...])
# An object library: one .hip source, compiled with these definitions for the host and for every GPU
# of ATTND_CUDA_ARCHS into one object. One source may serve many targets with definitions of their
# own. DEPS are targets whose headers it includes. Use it as
#   add_library(plugin MODULE host.cc $<TARGET_OBJECTS:NAME>)
#   set_target_properties(plugin PROPERTIES LINKER_LANGUAGE CXX)
#   target_link_libraries(plugin PRIVATE hip::host)
# Nothing is linked on the device: a kernel's templates must be instantiated in the source that
# launches it.
function(attnd_hip_object NAME)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "SOURCE" "DEFINITIONS;DEPS")
  _attnd_check_arguments("attnd_hip_object(${NAME})")
  add_library(${NAME} OBJECT "${ARG_SOURCE}")
  set_source_files_properties("${ARG_SOURCE}" PROPERTIES LANGUAGE CUDA)
  target_compile_definitions(${NAME} PRIVATE ${ARG_DEFINITIONS})
  target_include_directories(${NAME} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${NAME} PRIVATE hip::host ${ARG_DEPS})
  # Compressed, machine code is a tenth of its size; line tables are for ncu and compute-sanitizer.
  target_compile_options(${NAME} PRIVATE --expt-relaxed-constexpr -lineinfo --compress-mode=size
    "SHELL:-Werror all-warnings" "SHELL:-Xcompiler -Wall,-Wextra,-Wno-unused-parameter")
endfunction()
