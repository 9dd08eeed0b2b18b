# SPDX-License-Identifier: Apache-2.0
"""The dropout mask of the client is the daemon's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnd
from attnd import philox

# The known answers of Random123, the authors' own library, for Philox4x32-10:
# counter, key, draws.
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        0xFFFFFFFFFFFFFFFF,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "draws"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: int, draws: tuple[int, ...]) -> None:
    of_numpy = philox.philox4x32(key, tuple(np.array([c], np.int64) for c in counter))
    of_torch = philox.philox4x32(key, tuple(torch.tensor([c]) for c in counter))
    assert tuple(int(x[0]) for x in of_numpy) == draws
    assert tuple(int(x[0]) for x in of_torch) == draws


def daemon_mask(
    client: attnd.Client, dropout: attnd.Dropout, batch: int, heads: int, rows: int, keys: int
) -> torch.Tensor:
    """What the daemon keeps, bool [batch, heads, rows, keys], seen through its output.

    Equal scores and an identity of values make every output element one dropped or kept weight.
    """
    q = torch.zeros(batch, rows, heads, 8)
    k = torch.zeros(batch, keys, 1, 8)
    v = torch.eye(keys)[None, :, None].repeat(batch, 1, 1, 1)
    out = client.flash_attention(q, k, v, options=attnd.Options(dropout=dropout)).out
    kept = out.permute(0, 2, 1, 3) * keys
    wanted = torch.where(kept > 0.5, philox.scale(dropout), 0.0)
    assert torch.allclose(kept.double(), wanted.double(), rtol=1e-5)
    return kept > 0.5


@pytest.mark.parametrize(
    ("rows", "keys", "probability"),
    [(33, 70, 0.1), (70, 33, 0.5), (1, 256, 0.9), (5, 7, 1e-3)],
)
def test_mask_is_the_daemons(
    real_client: attnd.Client, rows: int, keys: int, probability: float
) -> None:
    rng = np.random.default_rng()
    seed = int(rng.integers(2**64, dtype=np.uint64))
    first = int(rng.choice([0, 7, 2**32 - 2]))
    print(f"seed {seed}, subsequence {first}")
    dropout = attnd.Dropout(probability=probability, seed=seed, subsequence=first)
    want = daemon_mask(real_client, dropout, 3, 4, rows, keys)
    got = philox.keep_mask(
        dropout,
        heads=torch.arange(4)[:, None, None],
        query_positions=torch.arange(rows)[:, None] + keys - rows,
        num_keys=keys,
        subsequences=torch.arange(3)[:, None, None, None],
    )
    assert torch.equal(got, want)


def test_blocks_are_parts_of_the_whole() -> None:
    dropout = attnd.Dropout(probability=0.3, seed=2**63 + 5)
    heads = np.arange(2)[:, None, None]
    rows = np.arange(-3, 20)[:, None]
    whole = philox.keep_mask(dropout, heads, rows, num_keys=50)
    part = philox.keep_mask(dropout, heads, rows[4:9], first_key=12, num_keys=9)
    assert np.array_equal(part, whole[:, 4:9, 12:21])
    assert abs(whole.mean() - 0.7) < 0.05
    with pytest.raises(attnd.InvalidArgument, match="first_key: got 2, expected a multiple of 4"):
        philox.keep_mask(dropout, heads, rows, first_key=2, num_keys=4)
