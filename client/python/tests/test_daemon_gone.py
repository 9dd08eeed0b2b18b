# SPDX-License-Identifier: Apache-2.0
"""The real daemon is killed between calls and during them, and many threads use one client."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import attnd
from conftest import Make, RealDaemon
from reference import close, last_output, stateless

Start = Callable[..., RealDaemon]
RETRY = attnd.RetryPolicy(max_attempts=3, initial_delay_s=0.01, max_delay_s=0.02)


def new_sequence(session: attnd.Session) -> attnd.Sequence:
    cache = session.client.open_cache(
        "gone", num_layers=1, num_query_heads=2, num_kv_heads=1, head_dim=32, page_size_tokens=8
    )
    return session.create_sequence(cache)


def until_connected(client: attnd.Client) -> None:
    """gRPC tries an address that refused again after up to a second."""
    while True:
        try:
            client.stats()
            return
        except attnd.Unavailable:
            continue


def test_killed_between_calls(start_daemon: Start, make_item: Make) -> None:
    daemon = start_daemon()
    client = attnd.Client(daemon.address, timeout_s=10, retry=RETRY)
    session = client.open_session(lease_s=600)
    sequence = new_sequence(session)
    session.attend([make_item(sequence, 3)])
    daemon.process.kill()
    daemon.process.wait()
    with pytest.raises(attnd.Unavailable, match=r"nothing was|possibly executed") as raised:
        session.attend([make_item(sequence, 1, start=3)])
    assert raised.value.from_channel
    assert f"daemon at {daemon.address}, tried 3 times" in str(raised.value)
    with pytest.raises(attnd.Unavailable, match=r"not sent again|nothing was executed"):
        session.create_sequence(sequence.cache)

    # Another daemon at the same address is found, and knows none of the old ids.
    start_daemon(folder=daemon.folder)
    patient = attnd.Client(daemon.address, timeout_s=30)
    assert patient.stats().sequences == 0
    until_connected(client)
    with pytest.raises(attnd.NotFound):
        sequence.describe()
    with pytest.raises(attnd.NotFound):
        patient.resume_session(session.token)
    session.close()  # Gone with its daemon, which is no error.


def test_killed_during_a_call(start_daemon: Start, make_item: Make) -> None:
    daemon = start_daemon("--max_linger=10s")  # An item waits, so that the call is under way.
    client = attnd.Client(daemon.address, timeout_s=20, retry=RETRY)
    watcher = attnd.Client(daemon.address)
    session = client.open_session(lease_s=600)
    sequence = new_sequence(session)
    with ThreadPoolExecutor(1) as pool:
        attending = pool.submit(session.attend, [make_item(sequence, 3)])
        while watcher.stats().queued_items == 0:
            assert not attending.done()
        daemon.process.kill()
        with pytest.raises(ConnectionError, match="possibly executed, and harmless") as raised:
            attending.result()
    assert daemon.address in str(raised.value)
    assert raised.value.from_channel


def test_a_call_under_way_finds_the_next_daemon(start_daemon: Start) -> None:
    daemon = start_daemon("--max_linger=10s")
    client = attnd.Client(daemon.address, timeout_s=60, retry=attnd.RetryPolicy(max_attempts=100))
    watcher = attnd.Client(daemon.address)
    rng = np.random.default_rng()
    q, k, v = (rng.standard_normal((1, 5, 2, 32), np.float32) for _ in range(3))
    with ThreadPoolExecutor(1) as pool:
        attending = pool.submit(client.flash_attention, q, k, v)
        while watcher.stats().queued_items == 0:
            assert not attending.done()
        daemon.process.kill()
        daemon.process.wait()
        start_daemon(folder=daemon.folder)
        out = attending.result().out
    assert close(out[0], stateless(q[0], k[0], v[0]))


def test_many_threads_share_a_client_and_a_session(client: attnd.Client, make_item: Make) -> None:
    threads, steps = 16, (0, 4, 5, 6, 7)
    together = threading.Barrier(threads)

    with client.open_session() as session:
        sequences = [new_sequence(session) for _ in range(threads)]
        work = [
            [make_item(sequence, 4 if start == 0 else 1, start=start) for start in steps]
            for sequence in sequences
        ]

        def decode(items: list[attnd.Item]) -> list[np.ndarray]:
            together.wait(30)
            return [session.attend([item])[0].out for item in items]

        with ThreadPoolExecutor(threads) as pool:
            outputs = list(pool.map(decode, work))
        for items, outs in zip(work, outputs, strict=True):
            for count, out in enumerate(outs, 1):
                assert close(out, last_output(items[:count]))
            assert items[0].sequence.describe().layer_lengths == [8]
