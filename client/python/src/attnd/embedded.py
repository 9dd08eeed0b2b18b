# SPDX-License-Identifier: Apache-2.0
"""A daemon of this process's own: the `attnd` program as a child on a private Unix socket.

    with attnd.EmbeddedDaemon() as daemon, daemon.connect() as client:
        out = client.flash_attention(q, k, v).out

`attnd.connect()` keeps one for the whole process. It ends with the process, however that ends: the
child reads a pipe of which only this process holds the other end (`attnd --exit_with_stdin`). A
daemon that ends by itself is started again on the same socket by the next call of a client that
`EmbeddedDaemon.connect` made; its caches and sequences are gone then, and their ids are NOT_FOUND.

Which device serves is the daemon's choice: a GPU where the plugin libattnd_hip.so lies beside the
program and finds one, else the CPU. HIP_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES and
CUDA_VISIBLE_DEVICES are read by the GPU's runtime in the child, which inherits the environment.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Sequence as Seq
from pathlib import Path
from types import TracebackType
from typing import Any

from attnd.client import Client
from attnd.errors import AttndError, ForkedProcess, InvalidArgument, Unavailable
from attnd.options import integer

_LOG_TAIL_BYTES = 4000
_MOST_DEATHS = 3
_DEATHS_WINDOW_S = 60.0
_STOP_TIMEOUT_S = 10.0
# A Unix socket's name has 107 characters; ours are shorter than this behind their folder.
_LONGEST_FOLDER = 70


class DaemonNotStarted(AttndError, RuntimeError):
    """There is no `attnd` program, or it ended before it served; the message has its log."""


def find_binary() -> Path:
    """The `attnd` program: the first of these that there is.

    $ATTND_BINARY, $ATTND_BIN_DIR/attnd, the one inside the installed package,
    build/release/bin/attnd of the source tree, `attnd` on the PATH. The first two are taken as
    they are, so that a misspelt path is an error and never another program.

    Raises:
        DaemonNotStarted: none is there; lists where it looked.
    """
    package = Path(__file__).resolve().parent
    for name, suffix in (("ATTND_BINARY", ""), ("ATTND_BIN_DIR", "attnd")):
        if value := os.environ.get(name):
            path = Path(value) / suffix
            if not os.access(path, os.X_OK) or path.is_dir():
                raise DaemonNotStarted(f"${name}: got {value!r}, expected a program at {path}")
            return path
    places = [package / "_bin" / "attnd"]
    # client/python/src/attnd of a clone.
    if len(package.parents) > 3 and (package.parents[3] / "proto" / "attnd").is_dir():
        places.append(package.parents[3] / "build" / "release" / "bin" / "attnd")
    for path in places:
        if os.access(path, os.X_OK):
            return path
    if found := shutil.which("attnd"):
        return Path(found)
    looked = ", ".join(map(str, places))
    raise DaemonNotStarted(
        f"there is no attnd program (looked for {looked} and on the PATH): build it with "
        "`make` in a clone of attnd, or set ATTND_BINARY to it, or ATTND_ADDRESS to a daemon that "
        "runs"
    )


class EmbeddedDaemon:
    """A child `attnd` on a private socket. Thread-safe.

    Args:
        binary: the program; None: see `find_binary`.
        memory_bytes: of each device for keys and values, at least 2 MiB, reserved at start; None:
            1 GiB. Stateless calls need none of it.
        memory_fraction: instead of memory_bytes, this share of each GPU, 0.05 to 0.98; on the CPU
            it changes nothing.
        num_threads: of the CPU backend; None: as many as the machine has.
        backend: "auto", "cpu" or "hip".
        flags: more flags of the program; they win over all the above.
        start_timeout_s: how long the program may take until it serves.

    Raises:
        DaemonNotStarted: no program, or it ended; the message has its log.
        InvalidArgument: an argument is out of range.
    """

    def __init__(
        self,
        *,
        binary: str | os.PathLike[str] | None = None,
        memory_bytes: int | None = None,
        memory_fraction: float | None = None,
        num_threads: int | None = None,
        backend: str = "auto",
        flags: Seq[str] = (),
        start_timeout_s: float = 60.0,
    ) -> None:
        self._flags = [*_device_flags(memory_bytes, memory_fraction, num_threads, backend), *flags]
        self._binary = find_binary() if binary is None else Path(binary)
        self._start_timeout_s = start_timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = self._forked = False
        self._pid = os.getpid()
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._folder = _private_folder()
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self._folder, True)
        _daemons.add(self)
        try:
            with self._lock:
                self._start()
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """What a `Client` connects to: "unix:/tmp/attnd-.../s"."""
        return f"unix:{self._folder / 's'}"

    @property
    def pid(self) -> int | None:
        """Of the child; None where it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def log(self) -> str:
        """What the daemon has logged, over all its starts."""
        with contextlib.suppress(OSError):
            return (self._folder / "log").read_text(errors="replace")
        return ""

    def serving_address(self) -> str:
        """`address`, with a daemon behind it: starts one where the last one has ended.

        Raises:
            Unavailable: closed; or it ended three times within a minute.
            ForkedProcess: in a child that was forked off: the daemon is the parent's.
            DaemonNotStarted: it does not start any more.
        """
        process = self._process
        if process is None or process.poll() is not None:
            with self._lock:
                if self._forked:
                    raise ForkedProcess(
                        f"the embedded daemon at {self.address} belongs to process {self._pid}, of "
                        f"which process {os.getpid()} is a fork: start another one here, or use "
                        "attnd.connect(), which does so"
                    )
                if self._closed:
                    raise Unavailable(f"the embedded daemon at {self.address} was closed")
                process = self._process
                if process is None or process.poll() is not None:
                    self._restart()
        return self.address

    def connect(self, **client_options: Any) -> Client:
        """A client of this daemon; its calls start a daemon that has ended again.

        A stateless call in flight when the daemon ends is sent once more and succeeds; one that
        names a cache or a sequence of the former daemon raises `NotFound`.

        Args:
            client_options: of `Client`.
        """
        return Client(self.serving_address(), endpoint=self.serving_address, **client_options)

    def close(self) -> None:
        """Stops the daemon: it finishes what it has admitted, for a few seconds at most."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            _stop(process)
        self._remove_folder()
        _daemons.discard(self)

    def __enter__(self) -> EmbeddedDaemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddedDaemon(address={self.address!r}, pid={self.pid})"

    def _restart(self) -> None:
        now = time.monotonic()
        code = self._process.returncode if self._process is not None else None
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._deaths.append(now)
        ended = f"the embedded daemon ended by itself ({_exit_reason(code)})"
        if len(self._deaths) == _MOST_DEATHS and now - self._deaths[0] < _DEATHS_WINDOW_S:
            self._process = None
            self._closed = True
            raise Unavailable(
                f"{ended} {_MOST_DEATHS} times within a minute and is not started again; its log "
                f"ends:\n{self._log_tail()}"
            )
        warnings.warn(f"{ended} and is started again", RuntimeWarning, stacklevel=4)
        self._start()

    def _start(self) -> None:
        ready = self._folder / "ready"
        ready.unlink(missing_ok=True)
        command = [
            str(self._binary),
            f"--listen={self.address}",
            "--metrics_listen=",
            "--no_reflection",
            "--drain_timeout=5s",
            f"--ready_file={ready}",
            "--exit_with_stdin",
            *self._flags,
        ]
        with (self._folder / "log").open("ab") as log:
            try:
                # A session of its own: Ctrl-C is for this process, which ends the child if it ends.
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise DaemonNotStarted(f"{self._binary} cannot be started: {error}") from error
        self._process = process
        deadline = time.monotonic() + self._start_timeout_s
        while not ready.exists():
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                self._process = None
                _stop(process)
                why = (
                    _exit_reason(code) if code is not None else f"{self._start_timeout_s} s passed"
                )
                raise DaemonNotStarted(
                    f"{self._binary} did not serve ({why}). It was started as\n"
                    f"{shlex.join(command)}\nand its log ends:\n{self._log_tail()}"
                )
            time.sleep(0.005)

    def _log_tail(self) -> str:
        return self.log()[-_LOG_TAIL_BYTES:].strip() or "(nothing)"

    def _forget_in_forked_child(self) -> None:
        """The daemon is the parent's: a child must not stop it, nor keep its pipe open."""
        self._lock = threading.Lock()
        self._forked = True
        self._remove_folder.detach()
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                os.close(process.stdin.fileno())
            # Neither waits for a process that is not its child nor closes the descriptor again.
            _abandoned.append(process)


_daemons: weakref.WeakSet[EmbeddedDaemon] = weakref.WeakSet()
_abandoned: list[object] = []


def _device_flags(
    memory_bytes: int | None, memory_fraction: float | None, num_threads: int | None, backend: str
) -> list[str]:
    if memory_bytes is not None and memory_fraction is not None:
        raise InvalidArgument(
            f"memory_fraction: got {memory_fraction} with memory_bytes {memory_bytes}, expected "
            "one of them"
        )
    if memory_fraction is not None:
        if not 0.05 <= memory_fraction <= 0.98:
            raise InvalidArgument(f"memory_fraction: got {memory_fraction}, expected 0.05 to 0.98")
        flags = ["--pool_bytes=0", f"--gpu_memory_fraction={memory_fraction}"]
    else:
        pool = integer("memory_bytes", memory_bytes or 1 << 30, least=2 << 20, most=1 << 46)
        flags = [f"--pool_bytes={pool}"]
    if num_threads is not None:
        flags.append(f"--num_threads={integer('num_threads', num_threads, most=1024)}")
    if backend not in ("auto", "cpu", "hip"):
        raise InvalidArgument(f"backend: got {backend!r}, expected one of auto, cpu, hip")
    return [*flags, f"--backend={backend}"]


def _private_folder() -> Path:
    """Of mode 0700, with a path that leaves room for a socket's name."""
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="attnd-", dir=base if len(base) < _LONGEST_FOLDER else "/tmp")
    return Path(folder)


def _exit_reason(code: int | None) -> str:
    if code is None:
        return "unknown"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the child: by its pipe, and where that does not help by force."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _forget_all_in_forked_child() -> None:
    for daemon in list(_daemons):
        daemon._forget_in_forked_child()


def _close_all() -> None:
    for daemon in list(_daemons):
        daemon.close()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all_in_forked_child)
