# SPDX-License-Identifier: Apache-2.0
"""Traffic that leaves nothing of the daemon's metrics at zero: what it can do, and what goes wrong.

    with Load(connect):
        ...                       # every kind of traffic runs, in threads of its own
    # sessions that it leaks on purpose are left behind

Each method from `decode` on is one kind, called again and again. Errors that the daemon answers
with are what it is here for; anything else ends the load, and `with` raises it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np

import attnd
from attnd.channel import RetryPolicy
from attnd.prefix import page_keys

LAYERS, HEADS, KV_HEADS, DIM, PAGE = 2, 4, 2, 64, 16
# Of these the second has narrow limits; daemon.py writes them.
TENANTS = ("chat", "batch")
CACHES = ("large", "small")
FLOODERS = 8
ERRORS = 30  # in a row, of each kind that must be seen among the successes


def rows(n: int, heads: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Noise of n tokens."""
    return np.random.default_rng(n).standard_normal((n, heads, DIM), np.float32)


def item(sequence: attnd.Sequence, layer: int, start: int, n: int, **fields: object) -> attnd.Item:
    """Writes n tokens at `start`, and attends them."""
    tensors = {"q": rows(n, HEADS), "k": rows(n, KV_HEADS), "v": rows(n, KV_HEADS)}
    return attnd.Item(sequence=sequence, layer=layer, start=start, **(tensors | fields))


def prefill(session: attnd.Session, sequence: attnd.Sequence, start: int, end: int) -> None:
    """[start, end) of every layer."""
    session.attend([item(sequence, layer, start, end - start) for layer in range(LAYERS)])


class Load:
    """The threads."""

    def __init__(self, connect: Callable[..., attnd.Client]) -> None:
        """`connect` makes a tenant's client; the other arguments are those of attnd.Client."""
        self._connect = connect
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self._numbers = itertools.count()
        self._leaked: list[attnd.Session] = []
        chat, batch = TENANTS
        kinds = [(tenant, kind) for tenant in TENANTS for kind in (self.decode, self.hoard)]
        kinds += [(chat, kind) for kind in (self.errors, self.prefixes, self.leaks, self.flash)]
        kinds += [(batch, self.control_errors), ("", self.strangers)]
        kinds += [(tenant, self.flood) for tenant in TENANTS for _ in range(FLOODERS // 2)]
        self._threads = [
            threading.Thread(target=self._run, args=kind, name=kind[1].__name__) for kind in kinds
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures and error is None:
            raise self._failures[0]

    def _run(self, tenant: str, kind: Callable[[attnd.Client], None]) -> None:
        try:
            with self._connect(tenant, timeout_s=20, retry=RetryPolicy(max_attempts=1)) as client:
                while not self._stop.is_set():
                    with contextlib.suppress(attnd.AttndError):
                        kind(client)
                    self._stop.wait(0.01)
        except BaseException as error:  # noqa: BLE001 - raised again by __exit__
            self._failures.append(error)
            self._stop.set()

    def _cache(self, client: attnd.Client, name: str) -> attnd.KvCache:
        return client.open_cache(
            name,
            num_layers=LAYERS,
            num_query_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=DIM,
            page_size_tokens=PAGE,
        )

    def decode(self, client: attnd.Client) -> None:
        """A prompt, tokens one by one, and a fork whose write copies a page."""
        cache = self._cache(client, CACHES[0])
        with client.open_session(label="decode") as session:
            sequence = session.create_sequence(cache)
            prefill(session, sequence, 0, 40)
            for position in range(40, 60):
                prefill(session, sequence, position, position + 1)
            fork = sequence.fork()
            prefill(session, fork, 60, 62)
            fork.free()
            sequence.truncate(30)

    def flash(self, client: attnd.Client) -> None:
        """Attention without a cache."""
        q, k, v = (rows(64, heads)[None] for heads in (HEADS, KV_HEADS, KV_HEADS))
        client.flash_attention(q, k, v)

    def errors(self, client: attnd.Client) -> None:
        """An outdated step, a sequence that is gone, a deadline, a session that another took."""
        cache = self._cache(client, CACHES[0])
        with client.open_session(label="errors") as session:
            sequence = session.create_sequence(cache)
            prefill(session, sequence, 0, 4)
            prefill(session, sequence, 4, 8)
            session.attend([item(sequence, 0, 0, 1, step=1)], check=False)
            session.attend([item(sequence, 0, 99, 1)], check=False)
            with contextlib.suppress(attnd.DeadlineExceeded):
                session.attend([item(sequence, 0, 8, 200)], timeout_s=0.002)
            other = session.create_sequence(cache)
            other.free()
            for _ in range(ERRORS):
                session.attend([item(other, 0, 0, 1)], check=False)
            with self._connect(TENANTS[0], timeout_s=20) as second:
                taken = second.resume_session(session.token)
                prefill(taken, taken.list_sequences()[0], 0, 4)
                for _ in range(ERRORS):
                    with contextlib.suppress(attnd.AttndError):
                        prefill(session, sequence, 0, 4)
                taken.close()

    def prefixes(self, client: attnd.Client) -> None:
        """Prompts of which every second begins as one before it did."""
        number = next(self._numbers)
        ids = random.Random(number // 2).choices(range(50_000), k=20 * PAGE)
        cache = self._cache(client, CACHES[0])
        keys = page_keys(ids, PAGE)
        with client.open_session(label="prefixes") as session:
            sequence = session.create_sequence(cache, prefix_keys=keys, num_tokens=len(ids))
            prefill(session, sequence, sequence.matched_tokens, len(ids))
            sequence.publish(keys)

    def hoard(self, client: attnd.Client) -> None:
        """Fills the pool until nothing is left, and holds it for a while."""
        cache = self._cache(client, CACHES[1])
        with client.open_session(label="hoard") as session:
            with contextlib.suppress(attnd.ResourceExhausted):
                while not self._stop.is_set():
                    with contextlib.suppress(attnd.Unavailable):
                        prefill(session, session.create_sequence(cache), 0, 32 * PAGE)
            self._stop.wait(3)
        self._stop.wait(3)

    def leaks(self, client: attnd.Client) -> None:
        """Two sessions that nobody closes: the lease of one ends soon, the other's later."""
        client.open_session(lease_s=0.2, label="left").release()
        self._leaked.append(client.open_session(lease_s=120, label="kept"))
        self._leaked[-1].release()
        self._stop.wait(0.3)

    def control_errors(self, client: attnd.Client) -> None:
        """A token that is no session's, a cache that is in use, more sessions than are allowed."""
        with contextlib.suppress(attnd.NotFound):
            client.resume_session(b"0123456789abcdef")
        with contextlib.suppress(attnd.FailedPrecondition):
            client.close_cache(self._cache(client, CACHES[1]))
        with contextlib.ExitStack() as opened:
            for _ in range(ERRORS):
                with contextlib.suppress(attnd.ResourceExhausted):
                    opened.enter_context(client.open_session(label="too many"))

    def strangers(self, client: attnd.Client) -> None:
        """Nobody's client."""
        with contextlib.suppress(attnd.Unauthenticated):
            client.open_session()

    def flood(self, client: attnd.Client) -> None:
        """More prompts at a time than the queue takes."""
        q, k, v = (rows(512, heads)[None] for heads in (HEADS, KV_HEADS, KV_HEADS))
        client.flash_attention(q, k, v)
