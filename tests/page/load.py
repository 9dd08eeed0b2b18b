# SPDX-License-Identifier: Apache-2.0
"""Load for a daemon whose status page is looked at: prompts, decode steps, forks and mistakes.

with Load("unix:/run/attnd.sock") as load:
load.wait_for_rounds(20)
"""

from __future__ import annotations

import threading

import attnd
import grpc
import numpy as np

# What a client may call itself; shown as text it harms nobody.
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
LABELS = ("chat replica 1", HOSTILE, "nightly evaluation of a long name " * 3)
CACHES = (("llama-8b", 4, 8, 2, 64, "bf16"), ("draft_0.5b", 2, 4, 4, 32, "f32"))
_PROMPT, _STEPS = 48, 24
_WAIT_S = 60


class Load:
    """Calls from a thread of its own, until it is stopped. Sessions stay open until the end."""

    def __init__(self, address: str) -> None:
        self._client = attnd.Client(address, timeout_s=_WAIT_S)
        self._channel = grpc.insecure_channel(address)
        self._rng = np.random.default_rng(1)
        self._rounds = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._error: Exception | None = None
        self._caches = [
            self._client.open_cache(
                name,
                num_layers=layers,
                num_query_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=dim,
                dtype=dtype,
            )
            for name, layers, heads, kv_heads, dim, dtype in CACHES
        ]
        self._sessions = [self._client.open_session(lease_s=600, label=label) for label in LABELS]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for session in self._sessions:
            session.close()
        self._client.close()
        self._channel.close()

    def stop(self) -> None:
        """No call is under way when it returns. Raises what went wrong."""
        self._stopping = True
        if self._thread.is_alive():
            self._thread.join()
        if self._error is not None:
            raise self._error

    def wait_for_rounds(self, rounds: int) -> None:
        """Until so many have been done."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._rounds >= rounds or self._error is not None, timeout=_WAIT_S
            )
        if self._error is not None:
            raise self._error
        assert done, f"{self._rounds} of {rounds} rounds after {_WAIT_S} s"

    def drain(self) -> None:
        """From now on the daemon refuses new work."""
        call = self._channel.unary_unary("/attnd.v1.AdminService/Drain")
        call(b"", timeout=_WAIT_S)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
                with self._changed:
                    self._rounds += 1
                    self._changed.notify_all()
        except (attnd.AttndError, grpc.RpcError, AssertionError) as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _round(self) -> None:
        session = self._sessions[self._rounds % len(self._sessions)]
        index = self._rounds % len(self._caches)
        _, layers, heads, kv_heads, dim, _ = CACHES[index]
        parent = session.create_sequence(self._caches[index])

        def step(sequences: list[attnd.Sequence], start: int, rows: int) -> None:
            for layer in range(layers):
                session.attend(
                    [
                        attnd.Item(
                            sequence=sequence,
                            layer=layer,
                            start=start,
                            q=self._tensor(rows, heads, dim),
                            k=self._tensor(rows, kv_heads, dim),
                            v=self._tensor(rows, kv_heads, dim),
                        )
                        for sequence in sequences
                    ]
                )

        step([parent], 0, _PROMPT)
        sequences = [parent] + [parent.fork() for _ in range(3)]
        for i in range(_STEPS):
            if not self._stopping:
                step(sequences, _PROMPT + i, 1)
        self._mistake()
        for sequence in sequences[1:]:
            sequence.free()
        # One of each round's sequences stays, up to a dozen.
        if self._rounds >= 12:
            parent.free()

    def _tensor(self, *shape: int) -> np.ndarray:
        return self._rng.standard_normal(shape, np.float32)

    def _mistake(self) -> None:
        """A request that is none: INVALID_ARGUMENT."""
        call = self._channel.unary_unary("/attnd.v1.AttentionService/Attend")
        try:
            call(b"\xff\xff", timeout=_WAIT_S)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
