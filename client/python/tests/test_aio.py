# SPDX-License-Identifier: Apache-2.0
"""The asyncio client: the same semantics, cancellation, leases, streams; against fp64."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import attnd
from attnd.aio import AsyncClient, AsyncSequence, AsyncSession
from conftest import Daemon, Make, RealDaemon
from fake_daemon import FakeDaemon
from reference import close, last_output, stateless

Start = Callable[..., RealDaemon]
GEOMETRY = {
    "num_layers": 3,
    "num_query_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 64,
    "page_size_tokens": 8,
}


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


async def new_sequence(session: AsyncSession) -> AsyncSequence:
    return await session.create_sequence(await session.client.open_cache("aio", **GEOMETRY))


def test_a_session_from_open_to_close(daemon: Daemon, make_item: Make) -> None:
    async def test() -> None:
        async with AsyncClient(daemon.address) as client:
            async with await client.open_session(label="aio") as session:
                sequence = await new_sequence(session)
                first = make_item(sequence, 11)
                assert close((await session.attend([first]))[0].out, last_output([first]))
                child = await sequence.fork(11)
                more = make_item(child, 2, start=11)
                assert close((await session.attend([more]))[0].out, last_output([first, more]))
                assert await sequence.set_client_state(b"one") == 1
                await child.truncate(4)
                assert list((await child.describe()).layer_lengths) == [4, 0, 0]
                await child.free()
                with pytest.raises(attnd.NotFound):
                    await child.describe()
                with pytest.raises(attnd.InvalidArgument, match=r"items\[0\].layer: got 3"):
                    await session.attend([make_item(sequence, 1, layer=3)])
                assert [s.id for s in await session.list_sequences()] == [sequence.id]
                token = session.release()
            async with await client.resume_session(token) as session:
                (taken,) = session.sequences
                assert isinstance(taken, AsyncSequence)
                assert taken.client_state == b"one"
            with pytest.raises(attnd.SessionLost, match="it was closed"):
                await new_sequence(session)

    run(test())


def test_the_stateless_call(daemon: Daemon) -> None:
    async def test() -> None:
        rng = np.random.default_rng()
        async with AsyncClient(daemon.address) as client:
            q, k, v = (rng.standard_normal((2, 9, 4, 32), np.float32) for _ in range(3))
            result = await client.flash_attention(q, k, v)
            for b in range(2):
                assert close(result.out[b], stateless(q[b], k[b], v[b]))
            assert (await client.capabilities()).version
            await client.check_integrity()

    run(test())


def test_many_tasks_share_a_session(daemon: Daemon, make_item: Make) -> None:
    async def one(session: AsyncSession) -> None:
        sequence = await new_sequence(session)
        items = [make_item(sequence, 3 if s == 0 else 1, start=s) for s in (0, 3, 4, 5)]
        for count, item in enumerate(items, 1):
            out = (await session.attend([item]))[0].out
            assert close(out, last_output(items[:count]))

    async def test() -> None:
        async with (
            AsyncClient(daemon.address) as client,
            await client.open_session() as session,
        ):
            await asyncio.gather(*(one(session) for _ in range(20)))

    run(test())


def test_the_lease_is_renewed_by_a_task_and_not_for_nobody(daemon: Daemon) -> None:
    def keepers() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name() == "attnd-lease"]

    async def test() -> None:
        async with AsyncClient(daemon.address) as client:
            async with await client.open_session(lease_s=0.6) as session:
                await asyncio.sleep(1.5)  # Two and a half leases: nothing else shows a renewal.
                await session.renew()
            await asyncio.gather(*keepers(), return_exceptions=True)
            session = await client.open_session(lease_s=0.3)
            (keeper,) = keepers()
            del session
            gc.collect()
            await keeper

    run(test())


def test_retries_are_those_of_the_other_client(fake: FakeDaemon, make_item: Make) -> None:
    async def test() -> None:
        retry = attnd.RetryPolicy(max_attempts=3, initial_delay_s=0.01)
        async with AsyncClient(fake.address, retry=retry) as client:
            session = await client.open_session()
            sequence = await new_sequence(session)
            fake.fail_next("Attend", grpc.StatusCode.UNAVAILABLE, executed=True)
            assert (await session.attend([make_item(sequence, 2)]))[0].replayed
            fake.fail_next("CreateSequence", grpc.StatusCode.UNAVAILABLE, executed=True)
            with pytest.raises(attnd.Unavailable, match="possibly executed, and not sent again"):
                await session.create_sequence(sequence.cache)
            await session.close()

    run(test())


def test_no_daemon_is_said_with_its_address(tmp_path: Path) -> None:
    async def test() -> None:
        retry = attnd.RetryPolicy(max_attempts=2, initial_delay_s=0.01)
        async with AsyncClient(f"unix:{tmp_path}/nobody", retry=retry) as client:
            with pytest.raises(ConnectionError, match=r"at unix:.*nobody.* nothing was executed"):
                await client.stats()

    run(test())


def test_a_stream_has_many_requests_in_flight(start_daemon: Start, make_item: Make) -> None:
    daemon = start_daemon()

    async def test() -> None:
        async with (
            AsyncClient(daemon.address) as client,
            await client.open_session() as session,
        ):
            sequence = await new_sequence(session)
            items = [make_item(sequence, 1, start=start) for start in range(100)]
            async with session.stream() as stream:
                answers = [await stream.submit([item]) for item in items]
                for count, answer in enumerate(answers, 1):
                    assert close((await answer)[0].out, last_output(items[:count]))
                # A refused request, as a whole or in an item, leaves the stream as it is.
                with pytest.raises(attnd.FailedPrecondition):
                    await stream.attend([make_item(sequence, 1, start=200)])
                again = make_item(sequence, 1, start=100)
                with pytest.raises(attnd.InvalidArgument):
                    await stream.attend([again, again])
                assert (await stream.attend([again], check=False))[0].error is None
            with pytest.raises(attnd.Unavailable, match="the stream has ended"):
                await stream.submit([again])

    run(test())


def test_a_cancelled_attend_writes_nothing(start_daemon: Start, make_item: Make) -> None:
    daemon = start_daemon("--max_linger=10s")

    async def test() -> None:
        async with (
            AsyncClient(daemon.address) as client,
            await client.open_session() as session,
        ):
            sequence = await new_sequence(session)
            item = make_item(sequence, 5)
            attending = asyncio.create_task(session.attend([item]))
            while (await client.stats()).queued_items == 0:
                assert not attending.done()
            attending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attending
            while (await client.stats()).queued_items > 0:
                pass
            assert list((await sequence.describe()).layer_lengths) == [0, 0, 0]
            assert (await client.stats()).tokens_written_total == 0

    run(test())
