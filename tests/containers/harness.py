# SPDX-License-Identifier: Apache-2.0
"""What the container tests are written with: docker's command line, containers, events.

scripts/containers.sh starts docker, builds the images and sets DOCKER_HOST. Nothing here sleeps
for time: waits end with an event of docker's, a line of a log or a figure of the daemon's, or fail
after PATIENCE_S with what was seen instead.
"""

import contextlib
import json
import os
import pathlib
import queue
import re
import subprocess
import threading
import time
import uuid

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_S = 120
UID = 65532
# As deploy/compose confines attnd, and no network but a loopback.
CONFINED = (
    "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    f"--security-opt=seccomp={REPOSITORY}/deploy/docker/seccomp.json",
)  # fmt: skip


def docker(*args, check=True, text=None, env=None):
    """Runs docker with these arguments; AssertionError with its output where it fails."""
    done = subprocess.run(
        ["docker", *map(str, args)], input=text, stdin=None if text else subprocess.DEVNULL,
        capture_output=True, text=True, timeout=600, env=env,
    )  # fmt: skip
    if check and done.returncode != 0:
        raise AssertionError(
            f"docker {' '.join(map(str, args))}: exit code {done.returncode}\n"
            f"{done.stdout}{done.stderr}")
    return done


def out(*args, **kwargs):
    return docker(*args, **kwargs).stdout.strip()


def inspect(name, kind="container"):
    return json.loads(out(kind, "inspect", name))[0]


def wait_until(probe, what, patience_s=PATIENCE_S):
    """Asks until probe() is true and returns that; for what docker has no event for."""
    deadline = time.monotonic() + patience_s
    pause = threading.Event()
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {patience_s} s still not: {what}; last seen: {value!r}")
        pause.wait(0.05)


class Container:
    """A container by its name. Its methods are docker's commands."""

    def __init__(self, name):
        self.name = name

    def state(self):
        return inspect(self.name)["State"]

    def exit_code(self):
        """Waits for its end."""
        return int(out("wait", self.name))

    def logs(self):
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def exec(self, *command, check=True):
        return docker("exec", self.name, *command, check=check)

    def signal(self, name):
        docker("kill", "--signal", name, self.name)

    def kill_from_outside(self):
        """SIGKILL to its first process, as the kernel's OOM killer would: docker sees it die."""
        os.kill(self.state()["Pid"], 9)

    def wait_for_log(self, pattern):
        """The match in the first line that has one, past or future; an end without is an error."""
        with subprocess.Popen(
            ["docker", "logs", "--follow", self.name], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        ) as follow:  # fmt: skip
            timer = threading.Timer(PATIENCE_S, follow.kill)
            timer.start()
            try:
                for line in follow.stdout:
                    match = re.search(pattern, line)
                    if match:
                        return match
            finally:
                timer.cancel()
                follow.kill()
        raise AssertionError(f"{self.name} did not log {pattern!r}, but:\n{self.logs()}")

    def wait_for_health(self, status="healthy"):
        with Events(self.name) as events:
            if self.state()["Health"]["Status"] != status:
                events.wait(f"health_status: {status}")

    def http(self, path, port=7451):
        """(status, body) of a GET to the loopback of the container's own network."""
        script = (
            "import json, sys, urllib.error, urllib.request\n"
            "try: r = urllib.request.urlopen(sys.argv[1], timeout=10)\n"
            "except urllib.error.HTTPError as error: r = error\n"
            "print(json.dumps([r.status, r.read().decode()]))")
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.state()['Pid']}/ns/net", "python3", "-c", script,
             f"http://127.0.0.1:{port}{path}"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"GET :{port}{path}: {done.stderr.strip().splitlines()[-1]}")
        return tuple(json.loads(done.stdout))

    def metric(self, name):
        """The sum of a metric's samples, whatever their labels; None where it has none."""
        status, body = self.http("/metrics")
        assert status == 200, f"/metrics: {status}"
        samples = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", body, re.MULTILINE)
        return sum(map(float, samples)) if samples else None


class Events:
    """The events of one container, from the moment on when it was made."""

    def __init__(self, container):
        self._filter = f"container={container}"
        self._seen = []
        self._queue = queue.Queue()

    def __enter__(self):
        since = str(time.time())
        self._process = subprocess.Popen(
            ["docker", "events", "--since", since, "--filter", self._filter,
             "--format", "{{json .}}"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self):
        for line in self._process.stdout:
            self._queue.put(json.loads(line))

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def wait(self, action):
        """The attributes of the next event with that action."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                event = self._queue.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"no event {action!r} of {self._filter}; seen: {self._seen}") from None
            self._seen.append(event["Action"])
            if event["Action"] == action:
                return event["Actor"]["Attributes"]


def remove(name):
    docker("rm", "--force", "--volumes", name, check=False)


@contextlib.contextmanager
def started(image, *arguments, options=(), confined=True):
    """A container in the background; removed at the end, with its log shown where a test failed."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    docker("run", "--detach", "--name", name, "--health-interval=1s",
           *(CONFINED if confined else ()), *options, image, *arguments)
    container = Container(name)
    try:
        yield container
    except BaseException:
        print(f"\n--- log of {image} {' '.join(arguments)}\n{container.logs()}---", flush=True)
        raise
    finally:
        remove(name)


def ran(image, *arguments, options=()):
    """A container's exit code and output, at its end."""
    done = docker("run", "--rm", *CONFINED, *options, image, *arguments, check=False)
    return done.returncode, done.stdout + done.stderr


def compressed_bytes(image):
    """What a registry would store of it, near enough: the saved image through gzip."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
        with subprocess.Popen(
            ["gzip", "-6"], stdin=save.stdout, stdout=subprocess.PIPE) as gzip:
            size = 0
            while chunk := gzip.stdout.read(1 << 20):
                size += len(chunk)
    assert save.returncode == 0 and gzip.returncode == 0
    return size
