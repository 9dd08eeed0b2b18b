# SPDX-License-Identifier: Apache-2.0
"""One daemon in a container: health, metrics, draining, exit codes, bad input, clients that die."""

import os
import pathlib
import re
import tempfile
import unittest

from harness import CONFINED, UID, Container, docker, inspect, ran, remove, started, wait_until

CPU, EXAMPLE = "attnd:cpu", "attnd:example"


def shared_with(daemon):
    """Options of a client's container that shares the daemon's socket, and nothing else."""
    return (f"--volumes-from={daemon.name}",)


class ServesTest(unittest.TestCase):
    def test_is_healthy_ready_and_measured(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            self.assertEqual(daemon.http("/healthz"), (200, "ok\n"))
            self.assertEqual(daemon.http("/readyz"), (200, "ok\n"))
            self.assertEqual(daemon.metric("attnd_build_info"), 1)

    def test_attends_correctly_for_another_container(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            code, output = ran(EXAMPLE, "verify", "--rounds", "1",
                               options=("--entrypoint=attnctl", *shared_with(daemon)))
            self.assertEqual(code, 0, output)
            self.assertRegex(output, r"verify: ok=yes .* failed=0")
            self.assertGreater(daemon.metric("attnd_tokens_attended_total"), 0)

    def test_may_do_nothing_that_it_does_not_need(self):
        with started(CPU) as daemon:
            daemon.wait_for_log("serving on")
            status = dict(re.findall(r"(\w+):\s+(\S+)",
                                     daemon.exec("cat", "/proc/1/status").stdout))
            self.assertEqual(int(status["CapBnd"], 16), 0)
            self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
            written = daemon.exec("sh", "-c", "echo x >/usr/bin/x", check=False)
            self.assertIn("Read-only file system", written.stderr)
            # The socket is the daemon's user's alone.
            mode = daemon.exec("stat", "-c", "%u %a %F", "/run/attnd/attnd.sock").stdout.strip()
            self.assertEqual(mode, f"{UID} 600 socket")

    def test_another_user_gets_no_connection(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            code, output = ran(EXAMPLE, "status", options=(
                "--entrypoint=attnctl", "--user=1000:1000", *shared_with(daemon)))
            self.assertEqual(code, 2)
            self.assertIn("Permission denied", output)


class EndsTest(unittest.TestCase):
    def test_sigterm_drains_and_exits_with_0(self):
        with started(CPU) as daemon:
            daemon.wait_for_log("serving on")
            docker("stop", "--time=40", daemon.name)
            self.assertEqual(daemon.exit_code(), 0)
            self.assertRegex(daemon.logs(), r"SIGTERM: draining.*\n.* drained\n.* attnd ends")

    def test_sigterm_under_load_answers_what_is_admitted(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            docker("run", "--detach", "--name=load", *CONFINED, *shared_with(daemon),
                   "--entrypoint=attnctl", EXAMPLE, "--timeout=5", "verify", "--rounds=100")
            try:
                wait_until(lambda: daemon.metric("attnd_requests_total"), "requests come")
                daemon.signal("TERM")
                self.assertEqual(daemon.exit_code(), 0)
                self.assertRegex(daemon.logs(), r" drained\n.* attnd ends")
                load = Container("load")
                # Told so: by attnd, or by gRPC where the call came in the listener's last moment.
                self.assertIn(load.exit_code(), (1, 2))
                self.assertRegex(load.logs(), "attnctl: (UNAVAILABLE|CANCELLED)")
            finally:
                remove("load")

    def test_drained_by_an_operator_it_is_alive_and_not_ready(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            self.assertIn("Drained", daemon.exec("attnctl", "drain").stdout)
            self.assertEqual(daemon.http("/healthz"), (200, "ok\n"))
            status, body = daemon.http("/readyz")
            self.assertEqual(status, 503)
            self.assertIn("drain", body)
            self.assertEqual(daemon.exec("attnctl", "health", check=False).returncode, 1)
            daemon.wait_for_health("unhealthy")
            daemon.signal("TERM")
            self.assertEqual(daemon.exit_code(), 0)

    def test_killed_it_exits_with_137_and_another_takes_its_place(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            daemon.signal("KILL")
            self.assertEqual(daemon.exit_code(), 137)
            # Its socket lies there, and nobody answers.
            code, output = ran(EXAMPLE, "--timeout=2", "status",
                               options=("--entrypoint=attnctl", *shared_with(daemon)))
            self.assertEqual(code, 2)
            self.assertIn("UNAVAILABLE", output)
            docker("start", daemon.name)
            daemon.wait_for_health()
            daemon.exec("attnctl", "status")


class BadInputTest(unittest.TestCase):
    def assert_refused(self, code, expected, *arguments, options=()):
        got, output = ran(CPU, *arguments, options=options)
        self.assertEqual(got, code, output)
        for text in expected:
            self.assertIn(text, output)

    def test_a_flag(self):
        self.assert_refused(2, ["--pool_bytes", '"lots"', "512MiB"], "--pool_bytes=lots")

    def test_a_config_file(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
            config.write("metrics_listn = 1\n")
            config.flush()
            pathlib.Path(config.name).chmod(0o644)
            self.assert_refused(2, ['"metrics_listn"', "did you mean metrics_listen"],
                                options=(f"--volume={config.name}:/etc/attnd/attnd.conf:ro",))

    def test_metrics_for_all_the_world(self):
        self.assert_refused(2, ["0.0.0.0:7451", "not a loopback address"],
                            "--metrics_listen=0.0.0.0:7451")

    def test_a_folder_that_it_may_not_write(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            self.assert_refused(1, ["cannot start", "/run/attnd/attnd.sock"],
                                options=(f"--volume={folder}:/run/attnd",))

    def test_its_own_config_is_good(self):
        code, output = ran(CPU, "--check_config")
        self.assertEqual(code, 0, output)
        self.assertIn('listen = ["unix:/run/attnd/attnd.sock"]', output)
        self.assertIn('metrics_listen = "127.0.0.1:7451"', output)


class ClientDiesTest(unittest.TestCase):
    def test_its_session_stays_until_the_lease_ends(self):
        with started(CPU, "--default_lease=12s", "--max_lease=12s") as daemon:
            daemon.wait_for_health()
            with started(EXAMPLE, options=shared_with(daemon)) as client:
                client.wait_for_log("done request-")
                client.signal("KILL")
                self.assertEqual(client.exit_code(), 137)
            self.assertEqual(daemon.metric("attnd_sessions"), 1)
            self.assertFalse(daemon.metric("attnd_leases_expired_total"))
            wait_until(lambda: daemon.metric("attnd_leases_expired_total") == 1, "the lease ends")
            self.assertEqual(daemon.metric("attnd_sessions"), 0)
            self.assertEqual(daemon.state()["Status"], "running")
            self.assertEqual(daemon.http("/readyz"), (200, "ok\n"))

    def test_told_to_stop_it_closes_its_session(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            with started(EXAMPLE, options=shared_with(daemon)) as client:
                client.wait_for_log("done request-")
                client.signal("TERM")
                self.assertEqual(client.exit_code(), 0, client.logs())
            self.assertEqual(daemon.metric("attnd_sessions"), 0)
            self.assertFalse(daemon.metric("attnd_leases_expired_total"))

    def test_it_holds_no_right_but_the_socket(self):
        with started(CPU) as daemon:
            daemon.wait_for_health()
            with started(EXAMPLE, options=shared_with(daemon)) as client:
                client.wait_for_log("done request-")
                self.assertEqual(inspect(client.name)["HostConfig"]["NetworkMode"], "none")


if __name__ == "__main__":
    unittest.main()
