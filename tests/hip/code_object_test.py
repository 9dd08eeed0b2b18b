#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The report's parsers and formulas, on small inputs: needs no ROCm."""

import pathlib
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import amd_gpu  # noqa: E402
import code_object  # noqa: E402
import code_object_report as report  # noqa: E402


def bundle(entries):
    """A clang offload bundle of {triple: content}."""
    header_bytes = 32 + sum(24 + len(triple) for triple in entries)
    header = code_object.BUNDLE_MAGIC + struct.pack("<Q", len(entries))
    content = b""
    for triple, data in entries.items():
        header += struct.pack("<QQQ", header_bytes + len(content), len(data), len(triple))
        header += triple.encode()
        content += data
    return header + content


def listing(*lines, start=0x1000):
    """A disassembly of `mnemonic` or (branch, index of its target), four bytes each."""
    text = [f"{start:016x} <f>:"]
    for i, line in enumerate(lines):
        mnemonic, target = line if isinstance(line, tuple) else (line, None)
        words = 0 if target is None else (target - i - 1) & 0xFFFF
        text.append(f"\t{mnemonic} v0, v1   // {start + 4 * i:012X}: BF82{words:04X}")
    return "\n".join(text)


def loops(*lines):
    return code_object.loops(code_object.functions(listing(*lines))["f"])


class BundleTest(unittest.TestCase):

    def test_each_bundle_of_a_section_is_read_and_hosts_are_left_out(self):
        one = bundle({"host-x86_64-unknown-linux-gnu-": b"",
                      "hipv4-amdgcn-amd-amdhsa--gfx1100": b"A" * 10,
                      "hipv4-amdgcn-amd-amdhsa--gfx90a:xnack+": b"B" * 5})
        two = bundle({"hipv4-amdgcn-amd-amdhsa--gfx1100": b"C"})
        self.assertEqual(list(code_object.bundles(one + b"\0" * 100 + two)),
                         [("gfx1100", b"A" * 10), ("gfx90a", b"B" * 5), ("gfx1100", b"C")])


class MetadataTest(unittest.TestCase):

    def test_keys_of_kernels_not_of_their_arguments(self):
        notes = """
amdhsa.kernels:
  - .agpr_count:     4
    .args:
      - .address_space:  global
        .size:           8
    .name:           _Z1fv
    .vgpr_count:     100
  - .agpr_count:     0
    .name:           g
    .vgpr_count:     7
amdhsa.target:   amdgcn-amd-amdhsa--gfx942
"""
        self.assertEqual(code_object.metadata(notes), [
            {"agpr_count": "4", "name": "_Z1fv", "vgpr_count": "100"},
            {"agpr_count": "0", "name": "g", "vgpr_count": "7"}])


class LoopsTest(unittest.TestCase):

    def test_straight_code_has_none(self):
        self.assertEqual(loops("v_a", ("s_cbranch_scc1", 3), "v_b", "s_endpgm"), [])

    def test_a_loop_ends_at_its_back_edge(self):
        (loop,) = loops("v_a", "v_b", "v_c", ("s_cbranch_scc1", 1), "v_d", "s_endpgm")
        self.assertEqual(loop.mnemonics, ["v_b", "v_c", "s_cbranch_scc1"])

    def test_both_sides_of_a_branch_belong_to_the_loop(self):
        (loop,) = loops("v_a", ("s_cbranch_vccz", 3), "v_b", "v_c", ("s_cbranch_scc1", 1),
                        "s_endpgm")
        self.assertEqual(loop.mnemonics,
                         ["s_cbranch_vccz", "v_b", "v_c", "s_cbranch_scc1"])

    def test_a_loop_that_is_entered_in_its_middle(self):
        (loop,) = loops("v_a", ("s_branch", 3), "v_b", "v_c", ("s_cbranch_scc1", 2), "s_endpgm")
        self.assertEqual(loop.mnemonics, ["v_b", "v_c", "s_cbranch_scc1"])

    def test_an_inner_loop_is_part_of_the_outer_one(self):
        found = loops("v_a", "v_b", "v_c", ("s_cbranch_scc1", 2), "v_d", ("s_cbranch_scc0", 1),
                      "s_endpgm")
        outer, inner = sorted(found, key=lambda loop: -len(loop.mnemonics))
        self.assertEqual(inner.mnemonics, ["v_c", "s_cbranch_scc1"])
        self.assertEqual(outer.mnemonics,
                         ["v_b", "v_c", "s_cbranch_scc1", "v_d", "s_cbranch_scc0"])
        self.assertTrue(outer.contains(inner))
        self.assertFalse(inner.contains(outer))
        self.assertEqual(outer.best_path(lambda block: (-len(block),)), outer.mnemonics)

    def test_the_best_path_takes_one_side_of_a_branch(self):
        (loop,) = loops("v_head", ("s_cbranch_vccz", 4), "v_long", ("s_branch", 5), "v_short",
                        "v_join", ("s_cbranch_scc1", 0), "s_endpgm")
        shortest = loop.best_path(lambda block: (-len(block),))
        self.assertEqual([m for m in shortest if m.startswith("v_")],
                         ["v_head", "v_short", "v_join"])
        longest = loop.best_path(lambda block: (len(block),))
        self.assertEqual([m for m in longest if m.startswith("v_")],
                         ["v_head", "v_long", "v_join"])

    def test_the_best_path_may_end_at_any_back_edge_but_never_leaves(self):
        (loop,) = loops("v_a", ("s_cbranch_vccz", 6), "v_b", ("s_cbranch_scc1", 0), "v_c",
                        ("s_cbranch_scc0", 0), "s_endpgm")
        self.assertEqual(loop.best_path(lambda block: (-len(block),)),
                         ["v_a", "s_cbranch_vccz", "v_b", "s_cbranch_scc1"])
        self.assertEqual(len(loop.best_path(lambda block: (len(block),))), 6)

    def test_code_behind_the_end_is_no_part_of_it(self):
        self.assertEqual(loops("v_a", "s_endpgm", "s_code_end", "s_code_end"), [])


class HotLoopTest(unittest.TestCase):

    MFMA = "v_mfma_f32_16x16x16_f16"

    def test_share_is_of_cycles(self):
        (loop,) = loops(self.MFMA, self.MFMA, "v_add_f32", "v_exp_f32", "ds_read_b128", "s_nop",
                        ("s_cbranch_scc1", 0), "s_endpgm")
        hot = report.hot_loop([loop], amd_gpu.GPUS["gfx942"])
        self.assertEqual((hot.matrix_cycles, hot.vector_cycles), (2 * 16, 4 + 16))
        self.assertAlmostEqual(hot.share, 32 / 52)
        self.assertEqual(dict(hot.counts), {"matrix": 2, "vector": 1, "exp": 1, "lds_read": 1,
                                            "scalar": 2})

    def test_the_loop_over_keys_counts_not_the_products_inside_it(self):
        found = loops("v_exp_f32", self.MFMA, ("s_cbranch_scc1", 1), ("s_cbranch_scc0", 0),
                      "s_endpgm")
        hot = report.hot_loop(found, amd_gpu.GPUS["gfx942"])
        self.assertEqual(hot.counts["exp"], 1)
        self.assertTrue(hot.is_rolled)

    def test_the_unmasked_loop_counts(self):
        found = loops(self.MFMA, "v_exp_f32", ("s_cbranch_scc1", 0),
                      self.MFMA, "v_exp_f32", "v_cndmask_b32", ("s_cbranch_scc1", 3), "s_endpgm")
        hot = report.hot_loop(found, amd_gpu.GPUS["gfx942"])
        self.assertEqual(hot.counts["vector"], 0)
        self.assertFalse(hot.is_rolled)

    def test_of_two_branches_the_unmasked_counts(self):
        found = loops("v_exp_f32", ("s_cbranch_vccz", 5), self.MFMA, "v_cndmask_b32",
                      ("s_branch", 6), self.MFMA, ("s_cbranch_scc1", 0), "s_endpgm")
        hot = report.hot_loop(found, amd_gpu.GPUS["gfx942"])
        self.assertEqual((hot.counts["matrix"], hot.counts["vector"], hot.all_vector), (1, 0, 2))

    def test_none_without_matrix_instructions(self):
        found = loops("v_exp_f32", ("s_cbranch_scc1", 0), "s_endpgm")
        self.assertIsNone(report.hot_loop(found, amd_gpu.GPUS["gfx942"]))

    def test_a_matrix_instruction_of_unknown_cycles_is_reported(self):
        found = loops("v_mfma_f64_4x4x4f64", ("s_cbranch_scc1", 0), "s_endpgm")
        hot = report.hot_loop(found, amd_gpu.GPUS["gfx942"])
        self.assertEqual(hot.unknown, {"v_mfma_f64_4x4x4f64"})


class CyclesTest(unittest.TestCase):

    def test_matrix_throughput_is_what_amd_states_for_a_compute_unit(self):
        # FLOPs a cycle and CU in f16, of two SIMDs on RDNA and four on CDNA.
        for gpu, mnemonic, depth, simds, flops in [
                ("gfx1100", "v_wmma_f32_16x16x16_f16", 16, 2, 512),
                ("gfx1201", "v_wmma_f32_16x16x16_f16", 16, 2, 1024),
                ("gfx90a", "v_mfma_f32_16x16x16f16", 16, 4, 1024),
                ("gfx90a", "v_mfma_f32_16x16x16bf16_1k", 16, 4, 1024),
                ("gfx942", "v_mfma_f32_16x16x16_bf16", 16, 4, 2048),
                ("gfx950", "v_mfma_f32_16x16x32_f16", 32, 4, 4096)]:
            cycles = amd_gpu.GPUS[gpu].cycles(mnemonic)
            self.assertEqual(2 * 16 * 16 * depth * simds / cycles, flops, (gpu, mnemonic))

    def test_slow_vector_instructions_take_four_times_as_long(self):
        for gpu, ordinary in [("gfx1100", 1), ("gfx942", 4)]:
            cycles = amd_gpu.GPUS[gpu].cycles
            for mnemonic in ["v_add_f32_e32", "v_dual_fmac_f32", "v_expand", "v_mul_f32_e32"]:
                self.assertEqual(cycles(mnemonic), ordinary, mnemonic)
            for mnemonic in ["v_exp_f32_e32", "v_rcp_iflag_f32_e32", "v_mul_lo_u32",
                             "v_mul_hi_u32", "v_mad_u64_u32", "v_mad_co_u64_u32"]:
                self.assertEqual(cycles(mnemonic), 4 * ordinary, mnemonic)


class OccupancyTest(unittest.TestCase):

    def waves(self, gpu, **changes):
        arguments = {"vgprs": 1, "sgprs": 1, "lds_bytes": 0, "waves_per_block": 4}
        return amd_gpu.GPUS[gpu].waves_per_simd(**(arguments | changes))

    def test_by_registers_as_the_compiler_computes_it(self):
        # What clang 21 writes into its assembly ("; Occupancy:").
        for gpu, vgprs, expected in [
                ("gfx1100", 92, 16), ("gfx1100", 116, 12), ("gfx1100", 157, 9), ("gfx1100", 236, 6),
                ("gfx1102", 85, 10), ("gfx1102", 117, 8), ("gfx1102", 156, 6), ("gfx1102", 237, 4),
                ("gfx1201", 116, 12), ("gfx1201", 180, 8),
                ("gfx90a", 30, 8), ("gfx90a", 65, 7), ("gfx90a", 86, 5), ("gfx942", 122, 4),
                ("gfx950", 157, 3), ("gfx950", 237, 2), ("gfx942", 300, 1)]:
            self.assertEqual(self.waves(gpu, vgprs=vgprs), expected, (gpu, vgprs))

    def test_by_lds_of_the_simds_that_share_it(self):
        for gpu, lds_bytes, expected in [
                ("gfx1100", 32768, 4), ("gfx1100", 49152, 2), ("gfx1100", 65536, 2),
                ("gfx942", 32768, 2), ("gfx942", 32769, 1), ("gfx950", 32768, 4),
                ("gfx950", 65536, 2)]:
            self.assertEqual(self.waves(gpu, lds_bytes=lds_bytes), expected, (gpu, lds_bytes))

    def test_whole_blocks_only(self):
        # 9 waves on each of four SIMDs are four blocks of eight.
        self.assertEqual(self.waves("gfx1100", vgprs=157, waves_per_block=8), 8)
        # Two blocks of two waves, on four SIMDs.
        self.assertEqual(self.waves("gfx942", lds_bytes=32768, waves_per_block=2), 1)

    def test_many_scalar_registers_cost_a_wave_on_cdna(self):
        self.assertEqual(self.waves("gfx942", sgprs=106), 7)
        self.assertEqual(self.waves("gfx1100", sgprs=106), 16)


class LimitsTest(unittest.TestCase):

    def read(self, text):
        return report.read_limits("limits.txt", text)

    def test_later_lines_add_and_replace(self):
        lines = self.read("# comment\n.* .* waves_per_simd=2 spills=1\n\n"
                          "K<1> gfx9.* spills=0 share=.5\n")
        self.assertEqual(report.limits_of(lines, "K<1>", "gfx942"),
                         {"waves_per_simd": 2.0, "spills": 0, "share": 0.5})
        self.assertEqual(report.limits_of(lines, "K<1>", "gfx1100"),
                         {"waves_per_simd": 2.0, "spills": 1})

    def test_a_pattern_matches_whole_names(self):
        lines = self.read("K<1 gfx9 spills=1\n")
        self.assertEqual(report.limits_of(lines, "K<1>", "gfx9"), {})
        self.assertEqual(report.limits_of(lines, "K<1", "gfx942"), {})
        self.assertFalse(lines[0].is_used)

    def test_an_unknown_limit_is_an_error(self):
        with self.assertRaises(report.UsageError):
            self.read("K .* spill=1\n")
        with self.assertRaises(report.UsageError):
            self.read("K .*\n")

    def test_names_lose_namespaces_and_spaces(self):
        self.assertEqual(
            report.short_name("attnd::gpu::AttendKernel<attnd::gpu::Target, (attnd::Phase)0, 128>"),
            "AttendKernel<Target,(Phase)0,128>")


if __name__ == "__main__":
    unittest.main()
