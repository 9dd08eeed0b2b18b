# SPDX-License-Identifier: Apache-2.0
"""Which keys a query sees and how scores are computed."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from attnd import tensors
from attnd._proto import types_pb2
from attnd.errors import InvalidArgument

INT64_MAX = 2**63 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """Dropout of attention probabilities, counter-based: a seed gives one mask on every backend.

    Attributes:
        probability: in [0, 1).
        seed: 64 bits.
        subsequence: 32 bits, of the first item; a dense batch counts up from it.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
    """

    probability: float
    seed: int
    subsequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Mask and score options. Query row i has position p = start + i and sees key j where all hold.

    Attributes:
        causal: j <= p.
        softmax_scale: of the scores; None: 1 / sqrt(head_dim_k).
        window_left: j >= p - window_left; None: no limit.
        window_right: j <= p + window_right; None: no limit.
        softcap: scores become softcap * tanh(score / softcap); 0.0: off.
            Source: Gemma Team, "Gemma 2", 2024.
        alibi_slopes: [num_query_heads] f32, slope * |p - j| is subtracted from the score.
            Source: Press et al., "Train short, test long", 2022.
        sinks: [num_query_heads] f32 logits that join the softmax denominator.
            Source: Xiao et al., "Efficient streaming language models with attention sinks", 2024.
        tree_mask: [n, n] bool, or [n, ceil(n / 8)] uint8 packed with the least significant bit
            first: which of the item's new keys a row sees. Earlier keys are always seen.
        dropout: see `Dropout`.
        return_lse: also return the natural log-sum-exp of every row.
    """

    causal: bool = False
    softmax_scale: float | None = None
    window_left: int | None = None
    window_right: int | None = None
    softcap: float = 0.0
    alibi_slopes: Any = None
    sinks: Any = None
    tree_mask: Any = None
    dropout: Dropout | None = None
    return_lse: bool = False

    @property
    def has_tensors(self) -> bool:
        """Whether the message needs room in tensor_data for this."""
        return not (self.alibi_slopes is None and self.sinks is None and self.tree_mask is None)

    def fill(self, message: types_pb2.AttentionOptions, payload: Payload) -> None:
        """Writes this into `message`, tensors into `payload`.

        Raises:
            InvalidArgument: a number is out of range, a tensor has the wrong shape or dtype.
        """
        if not self.has_tensors:
            message.CopyFrom(_without_tensors(self))
            return
        self._fill_numbers(message)
        for name in ("alibi_slopes", "sinks"):
            value = getattr(self, name)
            if value is not None:
                if not (isinstance(value, np.ndarray) or tensors.is_torch(value)):
                    value = np.asarray(value, np.float32)
                payload.add(name, getattr(message, name), value, rank=1, dtypes=(tensors.F32,))
        if self.tree_mask is not None:
            mask = pack_mask(self.tree_mask)
            payload.add("tree_mask", message.tree_mask, mask, rank=2, dtypes=(tensors.U8,))

    def _fill_numbers(self, message: types_pb2.AttentionOptions) -> None:
        message.causal = self.causal
        message.return_lse = self.return_lse
        message.softcap = _finite("softcap", self.softcap)
        if self.softcap < 0:
            raise InvalidArgument(f"softcap: got {self.softcap}, expected at least 0")
        if self.softmax_scale is not None:
            message.softmax_scale = _finite("softmax_scale", self.softmax_scale)
        if self.window_left is not None:
            message.window_left = integer("window_left", self.window_left)
        if self.window_right is not None:
            message.window_right = integer("window_right", self.window_right)
        if self.dropout is not None:
            if not 0 <= self.dropout.probability < 1:
                raise InvalidArgument(
                    f"dropout.probability: got {self.dropout.probability}, expected [0, 1)"
                )
            message.dropout.probability = self.dropout.probability
            message.dropout.seed = integer("dropout.seed", self.dropout.seed, most=2**64 - 1)
            message.dropout.subsequence = integer(
                "dropout.subsequence", self.dropout.subsequence, most=2**32 - 1
            )


@lru_cache(maxsize=256)
def _without_tensors(options: Options) -> types_pb2.AttentionOptions:
    """The message of options without tensors: the same ones come with every item."""
    message = types_pb2.AttentionOptions()
    options._fill_numbers(message)
    return message


class Payload:
    """The tensors of one request, one after another in tensor_data."""

    def __init__(self) -> None:
        self.parts: list[memoryview] = []
        self.size_bytes = 0

    def add(
        self,
        name: str,
        message: types_pb2.Tensor,
        value: Any,
        *,
        rank: int,
        dtypes: Seq[int] = tensors.FLOATS,
    ) -> tensors.HostTensor:
        """Appends `value` and describes it in `message`. Raises as `tensors.to_host` does."""
        host = tensors.to_host(name, value, rank=rank, dtypes=dtypes)
        tensors.describe(message, host, self.size_bytes)
        self.parts.append(host.data)
        self.size_bytes += len(host.data)
        return host


def pack_mask(mask: Any) -> Any:
    """[n, n] bool becomes [n, ceil(n / 8)] uint8, least significant bit first."""
    if tensors.is_torch(mask):
        mask = mask.detach().cpu().numpy()
    if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.ndim == 2:
        if mask.shape[0] != mask.shape[1]:
            raise InvalidArgument(f"tree_mask: got shape {list(mask.shape)}, expected [n, n]")
        return np.packbits(mask, axis=1, bitorder="little")
    return mask


def integer(name: str, value: Any, *, least: int = 0, most: int = INT64_MAX) -> int:
    """`value` as an int within [least, most].

    Raises:
        TypeError: not an integer.
        InvalidArgument: out of range.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: got {value!r}, expected an integer")
    number: int = value.__index__()
    if not least <= number <= most:
        raise InvalidArgument(f"{name}: got {number}, expected {least} to {most}")
    return number


def _finite(name: str, value: float) -> float:
    if not abs(value) <= _FLOAT32_MAX:  # NaN is not, either.
        raise InvalidArgument(f"{name}: got {value}, expected a finite number")
    return float(value)
