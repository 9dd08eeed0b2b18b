# SPDX-License-Identifier: Apache-2.0
"""Many conversations on one event loop, and many requests in flight on one stream."""

import asyncio

import numpy as np

import attnd
from attnd.aio import AsyncClient, AsyncSession

QKV = {"q": 4, "k": 2, "v": 2}  # heads
rng = np.random.default_rng(0)


def rows(n: int) -> dict[str, np.ndarray]:
    """Stands for a layer's projections of n tokens."""
    return {x: rng.standard_normal((n, heads, 64), np.float32) for x, heads in QKV.items()}


async def converse(session: AsyncSession, cache: attnd.KvCache) -> int:
    """One prompt and two tokens more."""
    sequence = await session.create_sequence(cache)
    for start, n in ((0, 6), (6, 1), (7, 1)):
        item = attnd.Item(sequence=sequence, layer=0, start=start, **rows(n))
        result = (await session.attend([item], timeout_s=30))[0]
    return result.layer_length


async def main() -> None:
    """Ten conversations at once; then ten requests on their way before the first answer."""
    async with AsyncClient(attnd.connect().address) as client:
        cache = await client.open_cache(
            "aio", num_layers=1, num_query_heads=4, num_kv_heads=2, head_dim=64
        )
        async with await client.open_session() as session:
            print(await asyncio.gather(*(converse(session, cache) for _ in range(10))))

            sequence = await session.create_sequence(cache)
            async with session.stream() as stream:
                answers = []
                for start in range(10):
                    item = attnd.Item(sequence=sequence, layer=0, start=start, **rows(1))
                    answers.append(await stream.submit([item]))
                print([(await answer)[0].layer_length for answer in answers])


asyncio.run(main())
# -> [8, 8, 8, 8, 8, 8, 8, 8, 8, 8]
# -> [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
