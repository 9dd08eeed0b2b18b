# SPDX-License-Identifier: Apache-2.0
"""What is sent again and what is not, against a fake daemon that fails on demand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import attnd
from attnd._proto import types_pb2
from conftest import Make
from fake_daemon import FakeDaemon

Reason = types_pb2.ErrorDetail
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def quick(fake: FakeDaemon) -> Iterator[attnd.Client]:
    retry = attnd.RetryPolicy(max_attempts=4, initial_delay_s=0.01, max_delay_s=0.05)
    with attnd.Client(fake.address, timeout_s=5, retry=retry) as client:
        yield client


@pytest.fixture
def sequence(quick: attnd.Client) -> attnd.Sequence:
    cache = quick.open_cache(
        "retries", num_layers=1, num_query_heads=2, num_kv_heads=1, head_dim=32
    )
    return quick.open_session().create_sequence(cache)


def calls(fake: FakeDaemon, method: str) -> int:
    return Counter(fake.calls)[method]


def test_a_full_queue_is_waited_for_as_long_as_it_says(
    fake: FakeDaemon, sequence: attnd.Sequence, make_item: Make
) -> None:
    fake.fail_next("Attend", UNAVAILABLE, reason=Reason.QUEUE_FULL, retry_delay_ms=120)
    begin = time.monotonic()
    sequence.session.attend([make_item(sequence, 2)])
    assert time.monotonic() - begin >= 0.12
    assert calls(fake, "Attend") == 2


def test_a_lost_answer_is_asked_for_again_with_the_same_step(
    fake: FakeDaemon, sequence: attnd.Sequence, make_item: Make
) -> None:
    fake.fail_next("Attend", UNAVAILABLE, executed=True)
    item = make_item(sequence, 2)
    result = sequence.session.attend([item])[0]
    assert result.replayed
    assert result.layer_length == 2
    assert calls(fake, "Attend") == 2
    assert fake.stats.tokens_written_total == 2


def test_attempts_end(fake: FakeDaemon, sequence: attnd.Sequence, make_item: Make) -> None:
    for _ in range(4):
        fake.fail_next("Attend", UNAVAILABLE, reason=Reason.QUEUE_FULL, retry_delay_ms=1)
    with pytest.raises(attnd.Unavailable) as raised:
        sequence.session.attend([make_item(sequence, 2)])
    assert raised.value.reason == "QUEUE_FULL"
    assert calls(fake, "Attend") == 4


def test_no_attempt_goes_past_the_timeout(
    fake: FakeDaemon, sequence: attnd.Sequence, make_item: Make
) -> None:
    fake.fail_next("Attend", UNAVAILABLE, reason=Reason.QUEUE_FULL, retry_delay_ms=60_000)
    begin = time.monotonic()
    with pytest.raises(attnd.Unavailable):
        sequence.session.attend([make_item(sequence, 2)], timeout_s=1)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    ("code", "detail", "error"),
    [
        (UNAVAILABLE, {"reason": Reason.DRAINING}, attnd.Draining),
        (grpc.StatusCode.INTERNAL, {}, attnd.Internal),
        (grpc.StatusCode.DATA_LOSS, {}, attnd.DataLoss),
        (grpc.StatusCode.UNAUTHENTICATED, {}, attnd.Unauthenticated),
        (grpc.StatusCode.UNIMPLEMENTED, {"reason": Reason.CAPABILITY_MISSING}, attnd.Unimplemented),
        (grpc.StatusCode.DEADLINE_EXCEEDED, {}, attnd.DeadlineExceeded),
    ],
)
def test_the_rest_of_the_table_is_not_retried(
    fake: FakeDaemon,
    sequence: attnd.Sequence,
    make_item: Make,
    code: grpc.StatusCode,
    detail: dict[str, int],
    error: type[attnd.AttndError],
) -> None:
    fake.fail_next("Attend", code, **detail)
    with pytest.raises(error, match=r"Attend.*made to fail") as raised:
        sequence.session.attend([make_item(sequence, 2)])
    assert raised.value.code is code
    assert calls(fake, "Attend") == 1


def test_exhausted_pages_say_how_many(
    fake: FakeDaemon, sequence: attnd.Sequence, make_item: Make
) -> None:
    fake.fail_next(
        "Attend",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason=Reason.PAGES_EXHAUSTED,
        needed_pages=7,
        free_pages=2,
    )
    with pytest.raises(attnd.ResourceExhausted) as raised:
        sequence.session.attend([make_item(sequence, 2)])
    assert (raised.value.needed_pages, raised.value.free_pages) == (7, 2)
    assert not isinstance(raised.value, attnd.MessageTooLarge)


def test_grpcs_own_message_limit_is_told_apart(fake: FakeDaemon, quick: attnd.Client) -> None:
    quick.capabilities().max_message_bytes = 0
    with pytest.raises(attnd.MessageTooLarge):
        quick.call_with_tensors("Attend", bytes(fake.max_message_bytes + 1))


def test_creating_is_not_repeated(fake: FakeDaemon, sequence: attnd.Sequence) -> None:
    fake.fail_next("CreateSequence", UNAVAILABLE, executed=True)
    with pytest.raises(attnd.Unavailable) as raised:
        sequence.session.create_sequence(sequence.cache)
    assert raised.value.from_channel
    assert calls(fake, "CreateSequence") == 2


@pytest.mark.parametrize("executed", [False, True])
def test_client_state_survives_a_lost_answer(
    fake: FakeDaemon, sequence: attnd.Sequence, executed: bool
) -> None:
    sequence.set_client_state(b"one")
    fake.fail_next("SetClientState", UNAVAILABLE, executed=executed)
    assert sequence.set_client_state(b"two") == 2
    assert sequence.describe().client_state == b"two"
    assert sequence.set_client_state(b"three") == 3


@pytest.mark.parametrize("executed", [False, True])
def test_freeing_survives_a_lost_answer(
    fake: FakeDaemon, sequence: attnd.Sequence, executed: bool
) -> None:
    fake.fail_next("FreeSequence", UNAVAILABLE, executed=executed)
    sequence.free()
    assert sequence.session.list_sequences() == []


def test_no_daemon_is_said_with_its_address(tmp_path: Path) -> None:
    retry = attnd.RetryPolicy(max_attempts=2, initial_delay_s=0.01)
    with (
        attnd.Client(f"unix:{tmp_path}/nobody.sock", timeout_s=2, retry=retry) as client,
        pytest.raises(ConnectionError, match=r"daemon at unix:.*nobody.sock"),
    ):
        client.stats()


def test_a_daemon_that_comes_back_is_found(socket_dir: Path) -> None:
    address = f"unix:{socket_dir}/again.sock"
    with attnd.Client(address, timeout_s=10) as client:
        with FakeDaemon(address):
            client.stats()
        with FakeDaemon(address):
            client.stats()
