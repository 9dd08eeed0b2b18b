# SPDX-License-Identifier: Apache-2.0
"""What is in the images: size, user, labels, and that every library is there."""

import os
import re
import unittest

from harness import CONFINED, REPOSITORY, compressed_bytes, docker, inspect, ran

IMAGES = ("attnd:cpu", "attnd:rocm", "attnd:example")
# Compressed, in MB. The ROCm image's own limit says when something large slips in.
MAX_MB = {"attnd:cpu": 150, "attnd:rocm": 400}


def shell(image, script):
    """What a shell in the image prints; the images have one, for a look inside."""
    code, output = ran(image, "-c", script, options=("--entrypoint=sh",))
    assert code == 0, f"{image}: sh -c {script!r}: exit code {code}\n{output}"
    return output


class ImageTest(unittest.TestCase):
    def each(self):
        for image in IMAGES:
            with self.subTest(image=image):
                yield image

    def test_is_small(self):
        for image, limit in MAX_MB.items():
            with self.subTest(image=image):
                megabytes = compressed_bytes(image) / 1e6
                unpacked = inspect(image, "image")["Size"] / 1e6
                print(f"{image}: {megabytes:.0f} MB compressed, {unpacked:.0f} MB unpacked")
                self.assertLess(megabytes, limit)

    def test_runs_as_nobody_in_particular(self):
        for image in self.each():
            config = inspect(image, "image")["Config"]
            self.assertEqual(config["User"], "65532:65532")
            self.assertIn("uid=65532(attnd) gid=65532(attnd)", shell(image, "id"))

    def test_is_labelled_with_its_version_and_revision(self):
        for image in self.each():
            labels = inspect(image, "image")["Config"]["Labels"]
            version = shell(image, "attnctl --version").strip()
            self.assertEqual(labels["org.opencontainers.image.version"], version)
            self.assertEqual(
                labels["org.opencontainers.image.revision"], os.environ["ATTND_TEST_REVISION"])
            self.assertEqual(labels["org.opencontainers.image.licenses"], "Apache-2.0")
            self.assertTrue(labels["org.opencontainers.image.title"])

    def test_daemon_is_checked_and_stopped_as_it_wants(self):
        for image in ("attnd:cpu", "attnd:rocm"):
            with self.subTest(image=image):
                config = inspect(image, "image")["Config"]
                self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "attnctl", "health"])
                self.assertEqual(config["StopSignal"], "SIGTERM")
                self.assertEqual(list(config["Volumes"]), ["/run/attnd"])
                self.assertEqual(shell(image, "stat -c '%u:%g %a' /run/attnd").strip(),
                                 "65532:65532 750")

    def test_every_library_is_there(self):
        for image in self.each():
            loaded = shell(image, "ldd $(find /usr/bin /usr/lib -type f "
                                  "'(' -name 'attn*' ! -name '*-*' -o -name 'libattnd*' ')')")
            self.assertIn("libgrpc++", loaded)
            self.assertNotIn("not found", loaded)

    def test_has_neither_compilers_nor_documents(self):
        for image in self.each():
            packages = shell(image, "dpkg-query --show --showformat '${Package}\\n'").split()
            surplus = [p for p in packages
                       if re.search(r"-dev$|^(g\+\+|gcc|clang|cmake|hipcc)\b", p)
                       and not re.search(r"^gcc-\d+-base$", p)]
            self.assertEqual(surplus, [])
            documents = shell(image, "find /usr/share/doc /usr/share/man -type f ! -name copyright "
                                     "-newer /etc/attnd/attnd.conf 2>/dev/null | head || true")
            self.assertEqual(documents, "")
            self.assertIn("Apache License", shell(image, "cat /usr/share/doc/attnd/copyright"))

    def test_line_tables_are_stripped(self):
        for image in self.each():
            # The name of the section would be in the file.
            found = shell(image, "grep -c '[.]debug_line' /usr/bin/attnd /usr/bin/attnctl || true")
            self.assertEqual(found.split(), ["/usr/bin/attnd:0", "/usr/bin/attnctl:0"])


class SeccompTest(unittest.TestCase):
    """The profile refuses what docker's own allows; that attnd runs under it, every test shows."""

    def test_refuses_what_attnd_does_not_do(self):
        self.assertEqual(docker("run", "--rm", "--network=none", "--entrypoint=ipcmk", "attnd:cpu",
                                "--queue").returncode, 0)
        code, output = ran("attnd:cpu", "--queue", options=("--entrypoint=ipcmk",))
        self.assertEqual(code, 1)
        self.assertIn("Operation not permitted", output)

    def test_refuses_new_namespaces(self):
        code, output = ran("attnd:cpu", "--user", "true", options=("--entrypoint=unshare",))
        self.assertEqual(code, 1)
        self.assertIn("Operation not permitted", output)

    def test_is_what_compose_uses(self):
        self.assertIn(f"--security-opt=seccomp={REPOSITORY}/deploy/docker/seccomp.json", CONFINED)
        compose = (REPOSITORY / "deploy/compose/compose.yaml").read_text()
        self.assertIn("seccomp=../docker/seccomp.json", compose)


if __name__ == "__main__":
    unittest.main()
