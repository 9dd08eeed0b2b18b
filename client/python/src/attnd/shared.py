# SPDX-License-Identifier: Apache-2.0
"""The client of this process: `attnd.connect()`.

    import attnd
    out = attnd.connect().flash_attention(q, k, v).out

One client, made by the first call and shared by all threads, of the daemon at $ATTND_ADDRESS or
else of an embedded daemon. A forked child gets a client, and an embedded daemon, of its own: a gRPC
connection does not survive a fork, and the parent's daemon stays the parent's.
"""

from __future__ import annotations

import os
import shlex
import threading
from typing import Any

from attnd.client import Client
from attnd.credentials import Credentials
from attnd.embedded import EmbeddedDaemon
from attnd.errors import FailedPrecondition, InvalidArgument
from attnd.options import integer


class SharedClient(Client):
    """The process's client. `close` does nothing: others use it; `attnd.disconnect` ends it."""

    def close(self) -> None:
        """Does nothing, so that a `with` block of one user does not cut off another."""


class _State:
    """What the process has. Guarded by `lock`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.client: SharedClient | None = None
        self.daemon: EmbeddedDaemon | None = None
        self.memory_bytes: int | None = None
        self.memory_fraction: float | None = None


_state = _State()


def connect(
    address: str | None = None,
    *,
    memory_bytes: int | None = None,
    memory_fraction: float | None = None,
    credentials: Credentials | None = None,
    **client_options: Any,
) -> Client:
    """A client: of `address`, or of $ATTND_ADDRESS, or of this process's embedded daemon.

    Without an address and without client_options it is the process-wide client, the same object at
    every call; closing that does nothing (see `disconnect`). With any of them, or with credentials,
    it is the caller's own.

    Args:
        address: "unix:/path/to/socket" or "host:port".
        memory_bytes: of each device for keys and values in the embedded daemon; None:
            $ATTND_MEMORY_BYTES, else 1 GiB.
        memory_fraction: instead, this share of each GPU; None: $ATTND_MEMORY_FRACTION.
        credentials: TLS and the tenant's token; None: what the environment says
            (`Credentials.from_environment`).
        client_options: of `Client`.

    $ATTND_DAEMON_FLAGS has more flags of the embedded daemon, as a shell would split them.

    Raises:
        DaemonNotStarted: no `attnd` program, or it does not start.
        FailedPrecondition: memory is asked for and the embedded daemon runs with another size.
        InvalidArgument: an argument or a variable is out of range, or names credentials that cannot
            work.
    """
    if memory_bytes is not None or memory_fraction is not None:
        if address is not None:
            raise InvalidArgument(
                f"address: got {address!r} with memory_bytes or memory_fraction, expected None: "
                "they are of the embedded daemon"
            )
        set_memory(memory_bytes=memory_bytes, memory_fraction=memory_fraction)
    own = credentials is not None or bool(client_options)
    if credentials is None:
        credentials = Credentials.from_environment()
    if address is not None:
        return Client(address, credentials=credentials, **client_options)
    if own:
        return Client(
            _serving_address(),
            endpoint=_serving_address,
            credentials=credentials,
            **client_options,
        )
    with _state.lock:
        if _state.client is None:
            _state.client = SharedClient(
                _serving_address(), endpoint=_serving_address, credentials=credentials
            )
        return _state.client


def disconnect() -> None:
    """Closes the process-wide client and stops the embedded daemon; calls in flight fail."""
    with _state.lock:
        client, _state.client = _state.client, None
        daemon, _state.daemon = _state.daemon, None
    if client is not None:
        Client.close(client)
    if daemon is not None:
        daemon.close()


def set_memory(*, memory_bytes: int | None = None, memory_fraction: float | None = None) -> None:
    """Memory of the embedded daemon that `connect` starts; see `EmbeddedDaemon`.

    Raises:
        InvalidArgument: out of range, or both are given.
        FailedPrecondition: the daemon runs already with another size: it reserves its memory once.
    """
    if memory_bytes is not None and memory_fraction is not None:
        raise InvalidArgument(
            f"memory_fraction: got {memory_fraction} with memory_bytes {memory_bytes}, expected "
            "one of them"
        )
    if memory_bytes is not None:
        integer("memory_bytes", memory_bytes, least=2 << 20, most=1 << 46)
    if memory_fraction is not None and not 0.05 <= memory_fraction <= 0.98:
        raise InvalidArgument(f"memory_fraction: got {memory_fraction}, expected 0.05 to 0.98")
    with _state.lock:
        changed = (memory_bytes, memory_fraction) != (_state.memory_bytes, _state.memory_fraction)
        if changed and _state.daemon is not None:
            what, value = "memory_fraction", memory_fraction
            if memory_bytes is not None:
                what, value = "memory_bytes", memory_bytes
            raise FailedPrecondition(
                f"{what}: got {value} while the embedded daemon runs with another size, expected "
                "before the first call, or after attnd.disconnect()"
            )
        _state.memory_bytes, _state.memory_fraction = memory_bytes, memory_fraction


def _serving_address() -> str:
    """Where the process's daemon serves now; starts it, or starts it again, where it must."""
    if address := os.environ.get("ATTND_ADDRESS"):
        return address
    daemon = _state.daemon
    if daemon is None:
        with _state.lock:
            daemon = _state.daemon
            if daemon is None:
                daemon = _state.daemon = _start()
    return daemon.serving_address()


def _start() -> EmbeddedDaemon:
    memory_bytes, memory_fraction = _state.memory_bytes, _state.memory_fraction
    if memory_bytes is None and memory_fraction is None:
        if text := os.environ.get("ATTND_MEMORY_BYTES"):
            memory_bytes = int(_number("ATTND_MEMORY_BYTES", text, int))
        elif text := os.environ.get("ATTND_MEMORY_FRACTION"):
            memory_fraction = _number("ATTND_MEMORY_FRACTION", text, float)
    return EmbeddedDaemon(
        memory_bytes=memory_bytes,
        memory_fraction=memory_fraction,
        flags=shlex.split(os.environ.get("ATTND_DAEMON_FLAGS", "")),
    )


def _number(name: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise InvalidArgument(f"${name}: got {text!r}, expected a number") from None


def _forget_in_forked_child() -> None:
    """The client stays, for those who hold it, and dials anew; the daemon is the parent's."""
    _state.lock = threading.RLock()
    _state.daemon = None


os.register_at_fork(after_in_child=_forget_in_forked_child)
