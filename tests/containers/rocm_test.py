# SPDX-License-Identifier: Apache-2.0
"""The ROCm image where there is no GPU: it says so, and serves on the CPU unless told not to."""

import unittest

from harness import ran, started

ROCM = "attnd:rocm"


class WithoutGpuTest(unittest.TestCase):
    def test_it_says_so_and_serves_on_the_cpu(self):
        with started(ROCM) as daemon:
            why = daemon.wait_for_log(
                r"backend: cpu .*, chosen because no GPU can be used: (.*)")[1]
            # The plugin loads, with ROCm's libraries; it is the devices that are missing.
            self.assertIn("/usr/lib/attnd/libattnd_hip.so", why)
            self.assertNotIn("does not load", why)
            print(f"without a GPU: {why}")
            daemon.wait_for_health()
            demo = daemon.exec("attnctl", "demo", "--tokens=4").stdout
            self.assertRegex(demo, "demo: tokens_identical=yes resumed=yes verified=yes")
            daemon.signal("TERM")
            self.assertEqual(daemon.exit_code(), 0)

    def test_with_backend_hip_it_exits_with_1_and_says_why(self):
        code, output = ran(ROCM, "--backend=hip")
        self.assertEqual(code, 1, output)
        self.assertRegex(output, r"cannot start: --backend=hip: .*libattnd_hip\.so: ")
        self.assertNotIn("does not load", output)
        print(f"with --backend=hip: {output.strip().splitlines()[-1]}")


if __name__ == "__main__":
    unittest.main()
