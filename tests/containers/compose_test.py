# SPDX-License-Identifier: Apache-2.0
"""`docker compose up` with attnd, a client and Prometheus, and what happens when one of them dies.

The files of deploy/compose, with compose.test.yaml on top. Grafana's image comes from a registry
only: its service is checked as configuration here, and left out of `up`.
"""

import json
import os
import pathlib
import shutil
import tempfile
import unittest
import urllib.parse

from harness import REPOSITORY, UID, Container, Events, docker, inspect, out, wait_until

COMPOSE = REPOSITORY / "deploy/compose"
SERVICES = ("attnd", "example", "prometheus")


def config(*files, env=None):
    arguments = [word for file in files for word in ("--file", COMPOSE / file)]
    return json.loads(out("compose", *arguments, "config", "--format=json", env=env))["services"]


class FilesTest(unittest.TestCase):
    def test_what_is_mounted_is_in_the_repository(self):
        for name, service in config("compose.yaml").items():
            for volume in service.get("volumes", ()):
                if volume["type"] == "bind":
                    with self.subTest(service=name, source=volume["source"]):
                        self.assertTrue(os.listdir(volume["source"]))

    def test_nothing_is_reached_from_other_machines(self):
        for name, service in config("compose.yaml").items():
            with self.subTest(service=name):
                for port in service.get("ports", ()):
                    self.assertEqual(port["host_ip"], "127.0.0.1")
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertIn("no-new-privileges:true", service["security_opt"])

    def test_rocm_has_the_devices_and_the_hosts_groups(self):
        env = {**os.environ, "RENDER_GID": "993", "VIDEO_GID": "39"}
        cpu = config("compose.yaml")["attnd"]
        rocm = config("compose.yaml", "compose.rocm.yaml", env=env)["attnd"]
        self.assertEqual(rocm.pop("group_add"), ["993", "39"])
        self.assertEqual([d["source"] for d in rocm.pop("devices")], ["/dev/kfd", "/dev/dri"])
        self.assertEqual((rocm.pop("image"), rocm["build"].pop("target")), ("attnd:rocm", "rocm"))
        # All else is as without.
        self.assertEqual((cpu.pop("image"), cpu["build"].pop("target")), ("attnd:cpu", "cpu"))
        self.assertEqual(rocm, cpu)

    def test_rocm_without_the_hosts_group_says_what_is_missing(self):
        env = {k: v for k, v in os.environ.items() if k != "RENDER_GID"}
        done = docker("compose", "--file", COMPOSE / "compose.yaml", "--file",
                      COMPOSE / "compose.rocm.yaml", "config", check=False, env=env)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("getent group render", done.stderr)


class UpTest(unittest.TestCase):
    """One `up` for all of it: each test leaves everything running and healthy."""

    @classmethod
    def setUpClass(cls):
        image = config("compose.yaml")["prometheus"]["image"]
        docker("build", "--network=host", "--tag", image, "--file",
               REPOSITORY / "tests/containers/prometheus.Dockerfile",
               REPOSITORY / "tests/containers")
        cls.run_dir = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.run_dir)
        os.chown(cls.run_dir, UID, UID)
        os.chmod(cls.run_dir, 0o750)
        cls.addClassCleanup(cls.compose, "down", "--volumes", "--timeout=0")
        cls.compose("up", "--detach", "--wait", *SERVICES)
        cls.attnd, cls.example, cls.prometheus = map(cls.container, SERVICES)

    @classmethod
    def compose(cls, *arguments, check=True):
        return docker("compose", "--file", COMPOSE / "compose.yaml", "--file",
                      REPOSITORY / "tests/containers/compose.test.yaml", *arguments, check=check,
                      env={**os.environ, "ATTND_RUN_DIR": cls.run_dir})

    @classmethod
    def container(cls, service):
        return Container(cls.compose("ps", "--all", "--quiet", service).stdout.strip())

    def run(self, result=None):
        """A test that fails shows what the containers said."""
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            print(self.compose("logs", "--tail=40", check=False).stdout, flush=True)

    def wait_for_an_answer(self):
        """The example is given tokens for a request that it has not been given yet."""
        done = self.attnd.metric("attnd_tokens_attended_total") or 0
        wait_until(lambda: (self.attnd.metric("attnd_tokens_attended_total") or 0) > done,
                   "attnd attends for the example")

    def query(self, expression):
        status, body = self.prometheus.http(
            "/api/v1/query?query=" + urllib.parse.quote(expression), port=9090)
        self.assertEqual(status, 200, body)
        return [float(sample["value"][1]) for sample in json.loads(body)["data"]["result"]]

    def test_the_client_is_served_through_the_shared_folder(self):
        self.assertTrue((pathlib.Path(self.run_dir) / "attnd.sock").is_socket())
        self.assertEqual(inspect(self.example.name)["HostConfig"]["NetworkMode"], "none")
        self.assertEqual(self.attnd.state()["Health"]["Status"], "healthy")
        self.wait_for_an_answer()
        self.assertEqual(self.attnd.metric("attnd_sessions"), 1)

    def test_prometheus_has_its_figures_and_rules(self):
        wait_until(lambda: self.query('up{job="attnd"}') == [1], "Prometheus scrapes attnd")
        self.assertGreater(self.query("sum(attnd_tokens_attended_total)")[0], 0)
        status, body = self.prometheus.http("/api/v1/rules", port=9090)
        groups = json.loads(body)["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertTrue([rule for rule in rules if rule["type"] == "alerting"])
        self.assertEqual([r["name"] for r in rules if r["health"] not in ("ok", "unknown")], [])

    def test_a_client_killed_resumes_its_session(self):
        self.wait_for_an_answer()
        resumed = self.attnd.metric("attnd_sessions_resumed_total") or 0
        with Events(self.example.name) as events:
            self.example.kill_from_outside()
            self.assertEqual(events.wait("die")["exitCode"], "137")
            events.wait("start")
        wait_until(lambda: self.attnd.metric("attnd_sessions_resumed_total") == resumed + 1,
                   "the client resumes")
        self.assertEqual(self.attnd.metric("attnd_sessions"), 1)
        self.assertFalse(self.attnd.metric("attnd_leases_expired_total"))
        self.wait_for_an_answer()

    def test_the_daemon_killed_is_started_again_and_the_client_goes_on(self):
        restarts = inspect(self.attnd.name)["RestartCount"]
        with Events(self.attnd.name) as daemon, Events(self.example.name) as client:
            self.attnd.kill_from_outside()
            self.assertEqual(daemon.wait("die")["exitCode"], "137")
            daemon.wait("start")
            daemon.wait("health_status: healthy")
            # Its session went with the daemon's memory: it says so, ends, and begins anew.
            self.assertEqual(client.wait("die")["exitCode"], "1")
            client.wait("start")
        self.assertEqual(inspect(self.attnd.name)["RestartCount"], restarts + 1)
        self.assertRegex(self.example.logs(), "model_server: (NOT_FOUND|UNAVAILABLE)")
        self.wait_for_an_answer()

    def test_a_daemon_that_stays_away_is_unavailable(self):
        with Events(self.example.name) as client:
            self.compose("kill", "--signal=KILL", "attnd")
            self.assertEqual(self.attnd.exit_code(), 137)
            asked = self.compose("run", "--rm", "--no-deps", "--entrypoint=attnctl", "example",
                                 "--timeout=2", "status", check=False)
            self.assertEqual(asked.returncode, 2)
            self.assertIn("UNAVAILABLE", asked.stderr + asked.stdout)
            self.compose("start", "attnd")
            self.assertEqual(client.wait("die")["exitCode"], "1")
        self.attnd.wait_for_health()
        self.wait_for_an_answer()

    def test_z_stopped_everything_exits_with_0(self):
        self.wait_for_an_answer()
        self.compose("stop", *SERVICES)
        for container in (self.attnd, self.example, self.prometheus):
            self.assertEqual(container.state()["ExitCode"], 0, container.logs())
        self.assertIn("drained", self.attnd.logs())


if __name__ == "__main__":
    unittest.main()
