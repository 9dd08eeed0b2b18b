# SPDX-License-Identifier: Apache-2.0
#
# The AMD GPUs that the kernels are written for: what `make hip-amd` compiles (amd.cmake), and what
# `attnctl doctor` looks for in a machine.
set(ATTND_AMD_TARGETS gfx1100 gfx1101 gfx1102 gfx1201 gfx90a gfx942 gfx950)
