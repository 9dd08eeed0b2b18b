#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each rule of tidy.py against a tree that breaks it and nothing else, and against a clean one."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tidy  # noqa: E402

SPDX = "// SPDX-License-Identifier: Apache-2.0\n"
HEADER = SPDX + "#pragma once\n"


class TidyTest(unittest.TestCase):

    def findings(self, files):
        """The (path, rule) pairs that tidy finds in a tree of {path: text or bytes}."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path, content in files.items():
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                data = content if isinstance(content, bytes) else content.encode()
                target.write_bytes(data)
            found, self.long_files = tidy.check(root)
            return [(f.path, f.rule) for f in found]

    def assert_includes(self, path, header, is_allowed):
        text = f'{SPDX}#include "{header}"\n'
        self.assertEqual(self.findings({path: text}), [] if is_allowed else [(path, "layers")],
                         f"{path} includes {header}")

    def test_clean_tree_passes(self):
        self.assertEqual(self.findings({
            "kernels/CMakeLists.txt": "# " + SPDX[3:] + "attnd_library(b HDRS base/units.h)\n",
            "kernels/base/units.h": HEADER,
            "kv_cache/pool.cc": SPDX + '#include "kernels/base/units.h"\n#include <vector>\n',
            "README.md": "# attnd\n",
        }), [])

    def test_layers_allow_what_the_design_draws(self):
        for path, header in [
                ("kernels/cpu/a.cc", "kernels/attention/params.h"),
                ("kernels/hip/a.hip", "hip/hip_runtime.h"),
                ("kv_cache/a.cc", "kernels/backend/device.h"),
                ("server/engine/a.cc", "kv_cache/kv_cache.h"),
                ("server/scheduler/a.cc", "server/engine/engine.h"),
                ("server/admission/a.cc", "server/scheduler/queue.h"),
                ("server/rpc/a.cc", "server/admission/admission.h"),
                ("server/rpc/a.cc", "attnd/v1/attention.grpc.pb.h"),
                ("server/main.cc", "kernels/cpu/cpu_backend.h"),
                ("server/server.cc", "server/rpc/service.h"),
                ("server/server.cc", "grpcpp/server_builder.h"),
                ("client/cpp/a.cc", "attnd/v1/attention.pb.h"),
                ("client/cpp/a.cc", "kernels/base/dtype.h"),
                ("client/cli/a.cc", "client/cpp/client.h"),
                ("client/cli/verify.cc", "kernels/cpu/attention_reference.h"),
                ("tests/unit/a_test.cc", "kernels/cpu/cpu_backend.h"),
                ("tests/integration/a_test.cc", "attnd/v1/attention.pb.h"),
        ]:
            self.assert_includes(path, header, is_allowed=True)

    def test_layers_refuse_the_rest(self):
        for path, header in [
                ("kernels/base/a.cc", "kernels/attention/params.h"),
                ("kernels/attention/a.cc", "kernels/cpu/cpu_backend.h"),
                ("kernels/cpu/a.cc", "kv_cache/kv_cache.h"),
                ("kernels/cpu/a.cc", "grpcpp/grpcpp.h"),
                ("kernels/cpu/a.cc", "google/protobuf/message.h"),
                ("kernels/cpu/a.cc", "hip/hip_runtime.h"),
                ("kv_cache/a.cc", "kernels/cpu/cpu_backend.h"),
                ("kv_cache/a.cc", "server/engine/engine.h"),
                ("server/engine/a.cc", "server/scheduler/queue.h"),
                ("server/engine/a.cc", "kernels/cpu/cpu_backend.h"),
                ("server/scheduler/a.cc", "server/admission/admission.h"),
                ("server/scheduler/a.cc", "grpcpp/grpcpp.h"),
                ("server/admission/a.cc", "server/rpc/service.h"),
                ("server/rpc/a.cc", "kernels/cpu/cpu_backend.h"),
                ("server/rpc/a.cc", "server/options.h"),
                ("server/options.cc", "kernels/cpu/cpu_backend.h"),
                ("server/rpc/a.cc", "client/cpp/client.h"),
                ("server/observe/a.cc", "server/engine/engine.h"),
                ("client/cpp/a.cc", "server/rpc/service.h"),
                ("client/cpp/a.cc", "kernels/attention/params.h"),
                ("client/cpp/a.cc", "kernels/cpu/cpu_backend.h"),
                ("client/cli/a.cc", "server/options.h"),
                ("server/rpc/a.cc", "tests/fakes/fake_clock.h"),
        ]:
            self.assert_includes(path, header, is_allowed=False)

    def test_generated_headers_stay_in_rpc_and_client(self):
        found = self.findings({"server/engine/a.cc": SPDX + '#include "attnd/v1/types.pb.h"\n'})
        self.assertEqual(set(found), {("server/engine/a.cc", "layers")})

    def test_unknown_folder_needs_a_layer(self):
        self.assertEqual(self.findings({"extras/a.cc": SPDX}), [("extras/a.cc", "layers")])

    def test_includes_start_at_the_root(self):
        self.assert_includes("kv_cache/a.cc", "pool.h", is_allowed=False)

    def test_header_without_guard(self):
        cmake = {"kv_cache/CMakeLists.txt": "# " + SPDX[3:] + "attnd_library(a HDRS a.h)\n"}
        self.assertEqual(self.findings({"kv_cache/a.h": SPDX, **cmake}),
                         [("kv_cache/a.h", "header-guard")])
        guard = SPDX + "#ifndef ATTND_A_H_\n#define ATTND_A_H_\n#endif\n"
        self.assertEqual(self.findings({"kv_cache/a.h": guard, **cmake}), [])

    def test_header_that_nobody_lists(self):
        cmake = "# " + SPDX[3:] + "attnd_library(a HDRS data.h)\n"
        self.assertEqual(
            self.findings({"kv_cache/a.h": HEADER, "kv_cache/CMakeLists.txt": cmake}),
            [("kv_cache/a.h", "header-listed")])

    def test_file_lengths(self):
        path = "kv_cache/a.cc"
        self.assertEqual(self.findings({path: SPDX + "\n" * 499}), [])
        self.assertEqual(self.long_files, [])
        self.assertEqual(self.findings({path: SPDX + "\n" * 500}), [])
        self.assertEqual(self.long_files, [(path, 501)])
        self.assertEqual(self.findings({path: SPDX + "\n" * 800}), [(path, "length")])

    def test_one_line_rules(self):
        for line, rule in [
                ("// TODO: later", "todo"),
                ("// TODO(me) later", "todo"),
                ("// FIXME", "leftover"),
                ("<<<<<<< HEAD", "leftover"),
                ('// see /home/someone/notes', "leftover"),
                ("// DO NOT SUBMIT", "leftover"),
                ("//" + "x" * 99, "columns"),
                ("int a; ", "whitespace"),
                ('const char* a = getenv("A");', "getenv"),
        ]:
            self.assertEqual(self.findings({"kv_cache/a.cc": SPDX + line + "\n"}),
                             [("kv_cache/a.cc", rule)], line)
        for line in ["// TODO(when gRPC 1.60 is in Debian): drop this", "// see https://" + "x" * 99]:
            self.assertEqual(self.findings({"kv_cache/a.cc": SPDX + line + "\n"}), [], line)

    def test_tests_do_not_sleep(self):
        path = "tests/unit/a_test.cc"
        line = "std::this_thread::sleep_for(a);\n"
        self.assertEqual(self.findings({path: SPDX + line}), [(path, "sleep")])
        self.assertEqual(self.findings({"kv_cache/a.cc": SPDX + line}), [])

    def test_exception_needs_a_reason(self):
        line = "std::this_thread::sleep_for(a);"
        path = "tests/unit/a_test.cc"
        reason = "  // tidy-allow(sleep): measures the clock itself\n"
        self.assertEqual(self.findings({path: SPDX + line + reason}), [])
        self.assertEqual(self.findings({path: SPDX + reason.strip() + "\n" + line + "\n"}), [])
        self.assertEqual(self.findings({path: SPDX + line + "  // tidy-allow(sleep):\n"}),
                         [(path, "sleep")])
        self.assertEqual(self.findings({path: SPDX + line + "  // tidy-allow(todo): a\n"}),
                         [(path, "sleep")])

    def test_license_line(self):
        self.assertEqual(self.findings({"scripts/a.sh": "#!/bin/sh\n"}),
                         [("scripts/a.sh", "license")])

    def test_generated_and_binary_files(self):
        for path, content in [("proto/a.pb.h", ""), ("client/a_pb2.py", ""), ("a.gguf", ""),
                              ("a.txt", b"a\0b"), ("a.txt", b"a" * (512 * 1024 + 1))]:
            self.assertEqual(self.findings({path: content}), [(path, "generated")], path)

    def test_program_fails_on_a_bad_tree(self):
        with tempfile.TemporaryDirectory() as folder:
            program = [sys.executable, tidy.__file__, "--root", folder]
            self.assertEqual(subprocess.run(program, capture_output=True).returncode, 0)
            (pathlib.Path(folder) / "bad.sh").write_text("#!/bin/sh\n")
            bad = subprocess.run(program, capture_output=True, text=True)
            self.assertEqual(bad.returncode, 1)
            self.assertIn("bad.sh:1: [license]", bad.stdout)


if __name__ == "__main__":
    unittest.main()
