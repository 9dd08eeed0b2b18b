# SPDX-License-Identifier: Apache-2.0
"""What AMD documents of its GPUs: what limits the waves on a SIMD, and the cycles of instructions.

    gpu = amd_gpu.GPUS["gfx942"]
    gpu.waves_per_simd(vgprs=185, sgprs=41, lds_bytes=32768, waves_per_block=4)  # -> 2

Registers and LDS: the AMDGPU backend of LLVM (Utils/AMDGPUBaseInfo.cpp: sizes and granules, by
target feature) and AMD's ISA guides. Cycles of matrix instructions: AMD's matrix instruction
calculator (gfx90a, gfx942, gfx11, gfx12) and LLVM's SISchedule.td (gfx950), where a pass is four
cycles. The rate of others: ISA guides and SISchedule.td's classes (transcendental and 32-bit
integer multiplication: a quarter).

On RDNA (wave32, a SIMD of 32 lanes) an ordinary vector instruction takes one cycle of its SIMD, a
transcendental four, and a WMMA occupies the vector unit. On CDNA (wave64, 16 lanes) an ordinary
one takes four and a transcendental sixteen; another wave's may overlap with an MFMA, so that a
share of matrix cycles which adds both up is a lower bound there.
"""

import dataclasses
import re

# 2 * 16 * 16 * 16 FLOPs in 32 cycles are 256 a cycle and SIMD: AMD's 512 a cycle and CU (gfx11).
WMMA_GFX11 = ((r"v_wmma_f32_16x16x16_(f16|bf16)", 32),)
WMMA_GFX12 = ((r"v_wmma_f32_16x16x16_(f16|bf16)", 16),)
# Older assemblers join the type to the shape (16x16x16f16); _1k is gfx90a's faster bfloat16.
MFMA_GFX90A = (
    (r"v_mfma_f32_16x16x16_?(f16|bf16_1k)", 32),
    (r"v_mfma_f32_32x32x8_?(f16|bf16_1k)", 64),
    (r"v_mfma_f32_16x16x4_?f32", 32),
)
MFMA_GFX942 = (
    (r"v_mfma_f32_16x16x16_?(f16|bf16)", 16),
    (r"v_mfma_f32_32x32x8_?(f16|bf16)", 32),
    (r"v_mfma_f32_16x16x4_?f32", 32),
)
# Twice the depth in the same four passes; the shapes of gfx942 gain nothing.
MFMA_GFX950 = (
    (r"v_mfma_f32_16x16x32_?(f16|bf16)", 16),
    (r"v_mfma_f32_32x32x16_?(f16|bf16)", 32),
) + MFMA_GFX942

MATRIX = re.compile(r"v_(wmma|swmmac|mfma|smfmac)_")
TRANSCENDENTAL = re.compile(r"v_s?_?(exp|log|rcp|rsq|sqrt|sin|cos)_")
QUARTER_RATE = re.compile(r"v_(mul_(lo|hi)_[iu]32|mad_(co_)?[iu]64_[iu]32)")



def _ceil_to(value, granule):
    return -(-value // granule) * granule


@dataclasses.dataclass(frozen=True)
class Gpu:
    wave_size: int
    simds: int             # that share an LDS: four of RDNA's WGP, four of CDNA's CU
    vgprs: int             # of a SIMD, for a lane; on CDNA accumulation registers count with them
    vgpr_granule: int
    max_waves: int         # of a SIMD
    lds_total_bytes: int
    lds_block_bytes: int   # that one block may have
    lds_granule: int
    matrix_cycles: tuple   # (pattern of the mnemonic, cycles)
    vector_cycles: int     # of an ordinary vector instruction
    sgpr_limited: bool     # CDNA: over 100 scalar registers, seven waves

    def waves_per_simd(self, *, vgprs, sgprs, lds_bytes, waves_per_block):
        """Waves that run on a SIMD, on average where a block's waves do not divide evenly.

        By registers: vgprs / allocated registers, rounded down. Whole blocks only: those whose
        waves find registers on the SIMDs that share an LDS, and whose LDS fits in it.
        """
        by_registers = min(self.vgprs // _ceil_to(max(vgprs, 1), self.vgpr_granule), self.max_waves)
        if self.sgpr_limited and sgprs > 100:
            by_registers = min(by_registers, 7)
        blocks = by_registers * self.simds // waves_per_block
        if lds_bytes > 0:
            blocks = min(blocks, self.lds_total_bytes // _ceil_to(lds_bytes, self.lds_granule))
        return blocks * waves_per_block / self.simds

    def cycles(self, mnemonic):
        """Cycles for which a vector instruction occupies its unit; None: an unknown matrix one."""
        if MATRIX.match(mnemonic):
            for pattern, cycles in self.matrix_cycles:
                if re.match(pattern, mnemonic):
                    return cycles
            return None
        if TRANSCENDENTAL.match(mnemonic) or QUARTER_RATE.match(mnemonic):
            return 4 * self.vector_cycles
        return self.vector_cycles


def _rdna(vgprs, granule, matrix_cycles):
    # Work-group processor mode, HIP's default: a block's waves may be on any of four SIMDs, which
    # share 128 KiB.
    return Gpu(wave_size=32, simds=4, vgprs=vgprs, vgpr_granule=granule, max_waves=16,
               lds_total_bytes=128 << 10, lds_block_bytes=64 << 10, lds_granule=512,
               matrix_cycles=matrix_cycles, vector_cycles=1, sgpr_limited=False)


def _cdna(lds_total_bytes, lds_granule, matrix_cycles):
    return Gpu(wave_size=64, simds=4, vgprs=512, vgpr_granule=8, max_waves=8,
               lds_total_bytes=lds_total_bytes, lds_block_bytes=lds_total_bytes,
               lds_granule=lds_granule, matrix_cycles=matrix_cycles, vector_cycles=4,
               sgpr_limited=True)


GPUS = {
    "gfx1100": _rdna(1536, 24, WMMA_GFX11),
    "gfx1101": _rdna(1536, 24, WMMA_GFX11),
    # The small RDNA3: two thirds of the registers.
    "gfx1102": _rdna(1024, 16, WMMA_GFX11),
    "gfx1201": _rdna(1536, 24, WMMA_GFX12),
    "gfx90a": _cdna(64 << 10, 512, MFMA_GFX90A),
    "gfx942": _cdna(64 << 10, 512, MFMA_GFX942),
    "gfx950": _cdna(160 << 10, 1280, MFMA_GFX950),
}
