# SPDX-License-Identifier: Apache-2.0
"""One connection to a daemon: deadlines, retries where the error table allows, typed errors."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import grpc

from attnd.caller import Caller, Metadata, bearer
from attnd.errors import (
    AttndError,
    DeadlineExceeded,
    InvalidArgument,
    Unauthenticated,
    from_rpc_error,
)
from attnd.process import ProcessBound


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a call is sent again, always within its timeout.

    The daemon's own UNAVAILABLE (queue full) waits as long as the daemon asks. A failed connection
    means "possibly executed", so only calls that are harmless twice are repeated (all of them where
    no connection was made in the first place), after a delay that doubles from `initial_delay_s` to
    `max_delay_s`, with up to a quarter of jitter.
    """

    max_attempts: int = 8
    initial_delay_s: float = 0.05
    max_delay_s: float = 1.0

    def delay_s(self, attempt: int, error: AttndError) -> float:
        """Seconds to wait after attempt number `attempt`, which counts from 1."""
        backoff = min(self.max_delay_s, self.initial_delay_s * 2 ** (attempt - 1))
        return (error.retry_delay_s or backoff) * random.uniform(1.0, 1.25)


class Attempts:
    """The attempts of one call, within its timeout: what `Channel` and `AsyncClient` share.

    Raises:
        InvalidArgument: timeout_s is not above 0.
    """

    def __init__(self, policy: RetryPolicy, timeout_s: float, caller: Caller) -> None:
        if not timeout_s > 0:
            raise InvalidArgument(f"timeout_s: got {timeout_s}, expected more than 0")
        self._policy = policy
        self._deadline = time.monotonic() + timeout_s
        self._number = 1
        self._sent = False
        self._caller = caller
        self._token: str | None = None
        self._token_renewed = False

    def left_s(self) -> float:
        """Timeout of the next attempt."""
        return max(self._deadline - time.monotonic(), 1e-3)

    def metadata(self) -> Metadata:
        """Of the next attempt."""
        self._token = self._caller.token()
        return bearer(self._token)

    def failed(self, error: AttndError, *, idempotent: bool, address: str) -> float:
        """Seconds to wait before the next attempt; raises `error` where there is none.

        Of a failed connection the error says which daemon it was, and what may have been executed.
        """
        if isinstance(error, Unauthenticated) and not self._token_renewed:
            # Refused before it was executed; a token that was rotated meanwhile gets one attempt.
            self._token_renewed = self._caller.has_other_than(self._token)
            if self._token_renewed:
                self._number += 1
                return 0.0
        error = self._caller.explain(error, address)
        again = error.retryable and not isinstance(error, DeadlineExceeded)
        if error.from_channel:
            # gRPC says so where it never had a connection: then nothing was sent.
            self._sent = self._sent or "failed to connect" not in str(error.args[0])
            again = again and (idempotent or not self._sent)
        delay_s = self._policy.delay_s(self._number, error)
        too_late = time.monotonic() + delay_s >= self._deadline
        if not again or too_late or self._number >= self._policy.max_attempts:
            if error.from_channel:
                error.args = (f"{error.args[0]} ({self._outcome(idempotent, address)})",)
            raise error
        self._number += 1
        return delay_s

    def _outcome(self, idempotent: bool, address: str) -> str:
        times = "once" if self._number == 1 else f"{self._number} times"
        said = f"daemon at {address}, tried {times}; "
        if not self._sent:
            return said + "nothing was executed"
        if idempotent:
            return said + "possibly executed, and harmless to send again as it is"
        return said + "possibly executed, and not sent again: that could do it twice"


OPTIONS = [
    # The daemon has the limits; a client that trusts its daemon needs none of its own.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # One retry policy, ours, and a reconnect as quick as it.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Is how long an attempt may take: a TLS handshake is several round trips.
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Tensors come in frames of 16 KiB unless told otherwise.
    ("grpc.http2.max_frame_size", 1 << 20),
    # Each Channel has its own connection: what one client cancels is no other's.
    ("grpc.use_local_subchannel_pool", 1),
    # A daemon is reached directly: no proxy of the environment's sees a token.
    ("grpc.enable_http_proxy", 0),
]


class _Connection:
    """What was dialled, and by which process."""

    def __init__(self, address: str, options: Seq[tuple[str, Any]], caller: Caller) -> None:
        self.address = address
        self.pid = os.getpid()
        self.channel = caller.channel(address, [*OPTIONS, *options])
        self.methods: dict[str, Callable[..., bytes]] = {}

    def stub(self, service: str, method: str) -> Callable[..., bytes]:
        path = f"/attnd.v1.{service}/{method}"
        stub = self.methods.get(path)
        if stub is None:
            # Bytes in, bytes out: wire.py keeps protobuf's copies away from the tensors.
            stub = self.methods[path] = self.channel.unary_unary(path)
        return stub


# Connections of the process that this one was forked from. To end one here would be gRPC's business
# with threads that this process does not have.
_inherited: list[_Connection] = []
_dial_lock = threading.Lock()


def _renew_lock_in_forked_child() -> None:
    global _dial_lock
    _dial_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock_in_forked_child)


class Channel(ProcessBound):
    """Calls methods of a daemon. Thread-safe.

    `address` is "unix:/path/to/socket" or "host:port". `endpoint`, where given, is asked before
    each attempt: it sees to it that a daemon serves and returns its address, which may have
    changed. Only with it a channel is used in a forked child, where it connects anew.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float,
        retry: RetryPolicy,
        options: Seq[tuple[str, Any]] = (),
        endpoint: Callable[[], str] | None = None,
        caller: Caller,
    ) -> None:
        if not isinstance(address, str) or not address:
            raise InvalidArgument(
                f'address: got {address!r}, expected "unix:/path/to/socket" or "host:port"'
            )
        super().__init__()
        self.noun = f"the client of {address}"
        self._timeout_s = timeout_s
        self._retry = retry
        self._options = options
        self._endpoint = endpoint
        self._caller = caller
        self._connection = _Connection(address, options, caller)

    @property
    def address(self) -> str:
        """Of the daemon that the last call went to."""
        return self._connection.address

    def check_process(self) -> None:
        """With an endpoint, a forked child is welcome: `_current` connects it anew."""
        if self._endpoint is None:
            super().check_process()

    def call(
        self,
        service: str,
        method: str,
        request: bytes,
        *,
        idempotent: bool,
        timeout_s: float | None = None,
    ) -> bytes:
        """Sends `request` to attnd.v1.`service`/`method`; the response's bytes.

        Args:
            idempotent: sending it twice does no harm, so a failed connection is retried.
            timeout_s: for all attempts together; None: the client's default.

        Raises:
            AttndError: as the error table says. `from_channel` where the connection failed.
            ForkedProcess: the channel was made before this process was forked.
        """
        self.check_process()
        attempts = Attempts(
            self._retry, self._timeout_s if timeout_s is None else timeout_s, self._caller
        )
        while True:
            stub = self._current().stub(service, method)
            try:
                return stub(request, timeout=attempts.left_s(), metadata=attempts.metadata())
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error, method)
            time.sleep(attempts.failed(error, idempotent=idempotent, address=self.address))

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled. Nothing happens in a fork."""
        if self._connection.pid == os.getpid():
            self._connection.channel.close()

    def _current(self) -> _Connection:
        connection = self._connection
        pid = os.getpid()
        if self._endpoint is None:
            return connection
        address = self._endpoint()
        if connection.pid == pid and connection.address == address:
            return connection
        with _dial_lock:
            connection = self._connection
            if connection.pid != pid or connection.address != address:
                if connection.pid != pid:
                    _inherited.append(connection)
                self._connection = connection = _Connection(address, self._options, self._caller)
            return connection
