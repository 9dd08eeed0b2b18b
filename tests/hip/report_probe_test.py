#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The code object report on report_probe.hip: each kernel's fault is found, on every GPU.

    tests/hip/report_probe_test.py OBJECT --llvm_bin DIR --gpus GPU...
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import unittest

REPORT = pathlib.Path(__file__).resolve().parent / "code_object_report.py"

parser = argparse.ArgumentParser()
parser.add_argument("object")
parser.add_argument("--llvm_bin", required=True)
parser.add_argument("--gpus", nargs="+", required=True)
args = parser.parse_args()


class ReportProbeTest(unittest.TestCase):

    def problems(self, limits, gpus=()):
        """(exit code, what the report complains of, by line)."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(limits)
            file.flush()
            done = subprocess.run(
                [sys.executable, REPORT, args.object, "--llvm_bin", args.llvm_bin,
                 "--limits", file.name, "--gpus", *(gpus or args.gpus)],
                capture_output=True, text=True)
        return done.returncode, done.stderr.splitlines()

    def assert_each_gpu_has(self, kernel, words, limits):
        code, lines = self.problems(limits)
        self.assertEqual(code, 1)
        for gpu in args.gpus:
            self.assertTrue(any(line.startswith(f"{gpu} {kernel}:") and words in line
                                for line in lines), f"{gpu}: no '{words}' in {lines}")
        return lines

    # What is wrong beside the one fault that a test looks for.
    TOLERANT = "Spills .* spills=999 scratch=9999\n.* .* waves_per_simd=4\n"

    def test_the_clean_kernel_is_within_every_limit(self):
        code, lines = self.problems(self.TOLERANT + "Calls .* calls=yes\n"
                                    "Clean .* matrix=yes share=0.85\n")
        self.assertEqual((code, lines), (0, []))

    def test_spills_and_scratch(self):
        lines = self.assert_each_gpu_has("Spills", "spills, at most 0", ".* .* waves_per_simd=4\n")
        self.assertEqual([line for line in lines if " NoMatrix:" in line], [])
        self.assert_each_gpu_has("Spills", "of scratch, at most 0", ".* .* waves_per_simd=4\n")

    def test_a_loop_without_matrix_instructions(self):
        self.assert_each_gpu_has("NoMatrix", "no matrix instruction",
                                 self.TOLERANT + "NoMatrix .* matrix=yes\n")

    def test_matrix_instructions_where_none_are_expected(self):
        self.assert_each_gpu_has("Clean", "matrix instructions, where none",
                                 self.TOLERANT + ".* .* matrix=no\n")

    def test_too_small_a_share(self):
        self.assert_each_gpu_has("Clean", "matrix share 0.",
                                 self.TOLERANT + "Clean .* share=0.99\n")

    def test_occupancy_of_the_lds_that_a_launch_asks_for(self):
        # Two blocks of four waves fit on RDNA's four SIMDs, one of two waves on CDNA's.
        limits = self.TOLERANT + "Clean .* lds=65536\nClean gfx950 lds=100000\n"
        lines = self.assert_each_gpu_has("Clean", "waves on a SIMD, at least 4", limits)
        self.assertEqual([line for line in lines if "B of LDS" in line], [])

    def test_more_lds_than_a_block_can_have(self):
        limits = self.TOLERANT + "Clean .* lds=65537\nClean gfx950 lds=163841\n"
        self.assert_each_gpu_has("Clean", "B of LDS, a block has", limits)

    def test_calls(self):
        self.assert_each_gpu_has("Calls", "not inlined", self.TOLERANT)
        _, lines = self.problems(self.TOLERANT + "Calls .* calls=yes\n")
        self.assertEqual(lines, [])

    def test_a_kernel_without_limits(self):
        self.assert_each_gpu_has("Calls", "no limit for its waves_per_simd",
                                 "(Clean|Spills|NoMatrix) .* waves_per_simd=1\n")

    def test_a_limit_for_no_kernel(self):
        _, lines = self.problems(self.TOLERANT + "Renamed .* share=0.5\n")
        self.assertTrue(any(line.endswith(":3: matches no kernel") for line in lines), lines)

    def test_a_missing_gpu(self):
        _, lines = self.problems(self.TOLERANT, ["gfx803"])
        self.assertTrue(any(line.endswith("no code for gfx803") for line in lines), lines)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
