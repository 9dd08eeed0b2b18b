# SPDX-License-Identifier: Apache-2.0
"""Sessions and sequences: leases, resume, epochs, stale ids, forks, client_state."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import attnd
from attnd._proto import types_pb2
from conftest import Make, RealDaemon


def test_resume_takes_everything_over(
    client: attnd.Client, cache: attnd.KvCache, make_item: Make
) -> None:
    former = client.open_session(lease_s=60)
    sequence = former.create_sequence(cache, client_state=b"tokens")
    former.attend([make_item(sequence, 9, layer=layer) for layer in range(3)])
    former.attend([make_item(sequence, 1, start=9)])
    token = former.token

    with client.resume_session(token) as session:
        assert session.token != token
        assert session.epoch == former.epoch + 1
        (taken,) = session.sequences
        assert taken.client_state == b"tokens"
        assert taken.length == 9
        assert list(taken.info.layer_lengths) == [10, 9, 9]
        # Steps go on where they were: this one is not taken for a repetition.
        result = session.attend([make_item(taken, 1, start=9)])[0]
        assert not result.replayed
        assert result.layer_length == 10
        with pytest.raises(attnd.Aborted):
            former.attend([make_item(sequence, 1, start=10)])
        with pytest.raises(attnd.NotFound):
            client.resume_session(token)
    former.release()


def test_the_token_is_in_no_repr(session: attnd.Session) -> None:
    assert session.token.hex() not in repr(session)
    assert repr(session.token) not in repr(session)


def test_the_lease_is_renewed_in_the_background(client: attnd.Client) -> None:
    with client.open_session(lease_s=0.6) as session:
        time.sleep(1.5)
        session.renew()


def test_a_released_session_expires(client: attnd.Client) -> None:
    token = client.open_session(lease_s=0.3).release()
    deadline = time.monotonic() + 10
    time.sleep(0.5)
    with pytest.raises(attnd.NotFound):
        while time.monotonic() < deadline:
            client.resume_session(token, lease_s=0.3).release()
            time.sleep(0.5)


def test_a_session_that_nobody_holds_is_not_renewed(client: attnd.Client) -> None:
    def keepers() -> int:
        return sum(thread.name == "attnd-lease" for thread in threading.enumerate())

    before = keepers()
    session = client.open_session(lease_s=0.3)
    assert keepers() == before + 1
    del session
    gc.collect()
    deadline = time.monotonic() + 5
    while keepers() > before:
        assert time.monotonic() < deadline, "the lease thread lives on"
        time.sleep(0.02)


def test_a_closed_session_says_so(client: attnd.Client, cache: attnd.KvCache) -> None:
    session = client.open_session()
    session.close()
    session.close()
    with pytest.raises(attnd.SessionLost, match="it was closed"):
        session.create_sequence(cache)


def test_stale_ids_are_not_found(
    client: attnd.Client, session: attnd.Session, cache: attnd.KvCache, make_item: Make
) -> None:
    sequence = session.create_sequence(cache)
    sequence.free()
    with pytest.raises(attnd.NotFound):
        session.attend([make_item(sequence, 1)])
    with pytest.raises(attnd.NotFound):
        sequence.describe()
    fresh = session.create_sequence(cache)
    fresh.id = types_pb2.Id(boot=fresh.id.boot ^ 1, handle=fresh.id.handle)
    with pytest.raises(attnd.NotFound):
        session.attend([make_item(fresh, 1)])
    with client.open_session() as other:
        foreign = other.create_sequence(cache)
        foreign.session = session
        with pytest.raises(attnd.NotFound):
            session.attend([make_item(foreign, 1)])


def test_a_fork_shares_and_then_diverges(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    session.attend([make_item(sequence, 11)])
    child = sequence.fork(7)
    assert list(child.describe().layer_lengths) == [7, 0, 0]
    write = make_item(child, 2, start=7)
    session.attend([write])
    read = make_item(sequence, 1, start=10, parts="q")
    before = session.attend([read])[0].out
    session.attend([make_item(child, 1, start=0)])
    assert np.array_equal(session.attend([read])[0].out, before)
    assert list(sequence.describe().layer_lengths) == [11, 0, 0]
    with pytest.raises(attnd.FailedPrecondition):
        sequence.fork(12)


def test_truncate_shortens_every_layer(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    session.attend([make_item(sequence, 9, layer=layer) for layer in range(2)])
    sequence.truncate(4)
    assert list(sequence.describe().layer_lengths) == [4, 4, 0]
    with pytest.raises(attnd.InvalidArgument, match="length: got -1"):
        sequence.truncate(-1)


def test_client_state_is_compared_and_set(session: attnd.Session, sequence: attnd.Sequence) -> None:
    assert sequence.set_client_state(b"one") == 1
    assert sequence.set_client_state(b"two") == 2
    with pytest.raises(attnd.Aborted):
        sequence.set_client_state(b"three", expected_version=1)
    assert sequence.describe().client_state == b"two"
    assert sequence.set_client_state(b"\0" * (1 << 20)) == 3
    with pytest.raises(attnd.InvalidArgument, match="got 1048577 bytes"):
        sequence.set_client_state(b"\0" * ((1 << 20) + 1))


def test_list_sequences_knows_lengths(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    session.attend([make_item(sequence, 3, layer=layer) for layer in range(3)])
    (listed,) = session.list_sequences()
    assert listed.id == sequence.id
    assert listed.length == 3
    result = session.attend([make_item(listed, 1, start=3)])[0]
    assert not result.replayed


def test_a_cache_of_another_geometry_is_refused(client: attnd.Client, cache: attnd.KvCache) -> None:
    with pytest.raises(attnd.FailedPrecondition, match="num_layers"):
        client.open_cache(
            cache.name,
            num_layers=4,
            num_query_heads=4,
            num_kv_heads=2,
            head_dim=64,
            page_size_tokens=8,
        )
    with pytest.raises(attnd.InvalidArgument):
        client.open_cache("odd", num_layers=1, num_query_heads=5, num_kv_heads=2, head_dim=64)


def test_a_cache_closes_when_it_is_empty(client: attnd.Client, session: attnd.Session) -> None:
    cache = client.open_cache(
        "closing", num_layers=1, num_query_heads=1, num_kv_heads=1, head_dim=32
    )
    sequence = session.create_sequence(cache)
    with pytest.raises(attnd.FailedPrecondition):
        client.close_cache(cache)
    sequence.free()
    client.close_cache(cache)
    assert "closing" not in [other.name for other in client.list_caches()]
    with pytest.raises(attnd.NotFound):
        session.create_sequence(cache)


def test_the_log_level_is_changed_while_the_daemon_runs(
    start_daemon: Callable[..., RealDaemon],
) -> None:
    with attnd.Client(start_daemon("--log_level=warning").address) as client:
        assert client.set_log_level("error") == "warning"
        assert client.set_log_level("") == "error"
        with pytest.raises(attnd.InvalidArgument, match="expected one of trace, debug, info"):
            client.set_log_level("loud")
        assert client.set_log_level("info") == "error"
