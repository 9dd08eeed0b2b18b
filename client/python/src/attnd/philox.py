# SPDX-License-Identifier: Apache-2.0
"""Philox4x32-10, the counter-based generator of attention dropout, bit for bit as in the daemon.

Written with the operators of 64-bit integers alone, so that numpy arrays and torch tensors of any
device both work. A draw depends on its coordinates alone: a block of a mask is computed where it is
needed, and equals that part of the whole.

    keep = philox.keep_mask(dropout, heads, query_positions, first_key=0, num_keys=128)

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from attnd import tensors
from attnd.errors import InvalidArgument
from attnd.options import Dropout

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox4x32(key: int, counter: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Four 32-bit draws, as int64, for each counter.

    Args:
        key: 64 bits.
        counter: four int64 arrays of values in [0, 2^32), of shapes that broadcast.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & _LOW, key >> 32 & _LOW
    for _ in range(10):
        # The products wrap at 64 bits, whose pattern is all that counts.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32 & _LOW) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> 32 & _LOW) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def threshold(dropout: Dropout) -> int:
    """A draw below it is dropped."""
    return int(_as_float32(dropout.probability) * 4294967296.0)


def scale(dropout: Dropout) -> float:
    """What a kept probability is multiplied by."""
    return 1.0 / (1.0 - _as_float32(dropout.probability))


def keep_mask(
    dropout: Dropout,
    heads: Any,
    query_positions: Any,
    *,
    first_key: int = 0,
    num_keys: int,
    subsequences: Any = 0,
) -> Any:
    """Which probabilities of keys [first_key, first_key + num_keys) are kept.

    Args:
        heads: int64 [..., 1], query heads.
        query_positions: int64 [..., 1], absolute: query i of Sq has Sk - Sq + i, which may be
            negative.
        first_key: a multiple of 4: one Philox call draws for four keys.
        subsequences: int64 [..., 1], added to the dropout's own: the index in a dense batch.

    Returns:
        bool, [..., num_keys]: the shape that the arguments broadcast to, and the keys.
    """
    if first_key % 4:
        raise InvalidArgument(f"first_key: got {first_key}, expected a multiple of 4")
    begin, count = first_key // 4, -(-num_keys // 4)
    if tensors.is_torch(query_positions):
        import torch

        blocks: Any = torch.arange(begin, begin + count, device=query_positions.device)
        stack: Any = torch.stack
    else:
        blocks, stack = np.arange(begin, begin + count), np.stack
    counter = (blocks, query_positions & _LOW, heads, (subsequences + dropout.subsequence) & _LOW)
    limit = threshold(dropout)
    kept = stack([lane >= limit for lane in philox4x32(dropout.seed, counter)], -1)
    return kept.reshape(*kept.shape[:-2], count * 4)[..., :num_keys]


def _as_float32(value: float) -> float:
    """As it travels in the message."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded
