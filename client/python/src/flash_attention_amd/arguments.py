# SPDX-License-Identifier: Apache-2.0
"""What every function of this package checks: each message names the argument, its value and what
was expected.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import pairwise
from typing import Any

import torch

import attnd
from attnd.errors import InvalidArgument
from attnd.options import integer

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_tensor(name: str, value: Any, like: torch.Tensor | None = None, *, rank: int) -> None:
    """A float tensor of `rank` dimensions, of the dtype and device of `like` (q).

    Raises:
        TypeError: no torch tensor.
        InvalidArgument: another dtype, device or rank.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: got {_kind(value)}, expected a torch tensor")
    if value.dtype not in _DTYPES:
        raise InvalidArgument(
            f"{name}: got dtype {value.dtype}, expected torch.float32, torch.float16 or "
            "torch.bfloat16"
        )
    if value.dim() != rank:
        raise InvalidArgument(
            f"{name}: got shape {list(value.shape)} of {value.dim()} dimensions, expected {rank}"
        )
    if value.device.type == "meta":
        raise InvalidArgument(f"{name}: got a tensor of device meta, expected one with values")
    if like is not None and value.dtype != like.dtype:
        raise InvalidArgument(f"{name}: got dtype {value.dtype}, expected {like.dtype} like q")
    if like is not None and value.device != like.device:
        raise InvalidArgument(f"{name}: got device {value.device}, expected {like.device} like q")


def check_tensors(q: Any, k: Any, v: Any, *, ragged: bool) -> None:
    """q, k and v fit each other; see `autograd.attention` for their shapes."""
    rank = 3 if ragged else 4
    check_tensor("q", q, rank=rank)
    check_tensor("k", k, q, rank=rank)
    check_tensor("v", v, q, rank=rank)
    if not ragged:
        for name, value in (("q", q), ("k", k), ("v", v)):
            if 0 in value.shape:
                raise InvalidArgument(
                    f"{name}: got shape {list(value.shape)}, expected no size below 1"
                )
        if k.shape[0] != q.shape[0]:
            raise InvalidArgument(
                f"k: got shape {list(k.shape)}, expected {q.shape[0]} batches like q of shape "
                f"{list(q.shape)}"
            )
    if k.shape[-1] != q.shape[-1]:
        raise InvalidArgument(
            f"k: got shape {list(k.shape)}, expected head_dim {q.shape[-1]} like q of shape "
            f"{list(q.shape)}"
        )
    if v.shape[:-1] != k.shape[:-1]:
        raise InvalidArgument(
            f"v: got shape {list(v.shape)}, expected {[*k.shape[:-1], 'head_dim_v']} like k"
        )
    if k.shape[-2] == 0 or q.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise InvalidArgument(
            f"k: got {k.shape[-2]} heads, expected a divisor of q's {q.shape[-2]} heads"
        )


def check_options(options: attnd.Options, q: torch.Tensor) -> None:
    """What the operator can take, and what it has gradients for."""
    if options.tree_mask is not None:
        raise InvalidArgument(
            "options.tree_mask: got a mask, expected None: the operator has none; "
            "Client.flash_attention and Session.attend have"
        )
    for name in ("alibi_slopes", "sinks"):
        value = getattr(options, name)
        if value is None:
            continue
        if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise InvalidArgument(
                f"{name}: requires a gradient, which this operator does not give; expected a "
                "tensor that was detached"
            )
        shape = list(torch.as_tensor(value).shape)
        if shape != [q.shape[-2]]:
            raise InvalidArgument(
                f"{name}: got shape {shape}, expected [{q.shape[-2]}], one for each query head"
            )
    if options.dropout is not None and not 0 <= options.dropout.probability < 1:
        raise InvalidArgument(
            f"dropout.probability: got {options.dropout.probability}, expected [0, 1)"
        )


def check_cu_seqlens(
    q: torch.Tensor, k: torch.Tensor, cu_seqlens_q: Any, cu_seqlens_k: Any
) -> tuple[list[int], list[int]]:
    """Both as lists of ints.

    Raises:
        InvalidArgument: one is missing, does not begin with 0, decreases, or does not end at the
            total; or they differ in length.
    """
    lists = []
    for name, value, tensor in (
        ("cu_seqlens_q", cu_seqlens_q, q),
        ("cu_seqlens_k", cu_seqlens_k, k),
    ):
        if value is None:
            raise InvalidArgument(f"{name}: got None, expected both cu_seqlens or neither")
        entries = int_list(name, value)
        total = tensor.shape[0]
        if len(entries) < 2 or entries[0] != 0:
            raise InvalidArgument(
                f"{name}: got {_short(entries)}, expected at least 2 entries, the first 0"
            )
        for a, b in pairwise(entries):
            if b < a:
                raise InvalidArgument(
                    f"{name}: got {b} after {a}, expected entries that do not decrease"
                )
        if entries[-1] != total:
            raise InvalidArgument(
                f"{name}: got {entries[-1]} as the last entry, expected {total}, the rows of "
                f"{'q' if name.endswith('q') else 'k'}"
            )
        lists.append(entries)
    if len(lists[0]) != len(lists[1]):
        raise InvalidArgument(
            f"cu_seqlens_k: got {len(lists[1])} entries, expected {len(lists[0])} like cu_seqlens_q"
        )
    return lists[0], lists[1]


def int_list(name: str, value: Any) -> list[int]:
    """A list of ints, from a 1-D integer tensor, array or sequence."""
    if isinstance(value, torch.Tensor):
        if value.dim() != 1 or value.is_floating_point() or value.dtype == torch.bool:
            raise InvalidArgument(
                f"{name}: got {value.dtype} of shape {list(value.shape)}, expected a 1-D int32 "
                "tensor"
            )
        return [int(entry) for entry in value.tolist()]
    if not isinstance(value, Seq) and not hasattr(value, "tolist"):
        raise TypeError(f"{name}: got {_kind(value)}, expected a 1-D int32 tensor")
    return [integer(name, entry) for entry in value]


def make_options(
    *,
    causal: Any,
    softmax_scale: Any,
    window_size: Any = (-1, -1),
    softcap: Any = 0.0,
    dropout_p: Any = 0.0,
) -> attnd.Options:
    """FlashAttention's arguments as `attnd.Options`, the dropout seed drawn from torch's generator.

    Raises:
        TypeError: `causal` is no bool, or a number is none.
        InvalidArgument: out of range.
    """
    if not isinstance(causal, bool):
        raise TypeError(
            f"causal: got {causal!r}, expected a bool (give what follows v by name: "
            "FlashAttention's own order is another)"
        )
    for name, value in (
        ("softmax_scale", softmax_scale),
        ("softcap", softcap),
        ("dropout_p", dropout_p),
    ):
        optional = value is None and name == "softmax_scale"
        if isinstance(value, bool) or not (optional or isinstance(value, int | float)):
            raise TypeError(f"{name}: got {value!r}, expected a number")
    if not 0 <= dropout_p < 1:
        raise InvalidArgument(f"dropout_p: got {dropout_p}, expected [0, 1)")
    if not 0 <= softcap < float("inf"):
        raise InvalidArgument(f"softcap: got {softcap}, expected at least 0")
    left, right = _window(window_size)
    dropout = None
    if dropout_p > 0:
        # A tensor for the sake of torch.compile; `autograd.attention` takes it as it is.
        seed: Any = torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64)
        dropout = attnd.Dropout(probability=float(dropout_p), seed=seed)
    return attnd.Options(
        causal=causal,
        softmax_scale=None if softmax_scale is None else float(softmax_scale),
        window_left=left,
        window_right=right,
        softcap=float(softcap),
        dropout=dropout,
    )


def _window(window_size: Any) -> tuple[int | None, int | None]:
    """FlashAttention's (left, right), -1 for no limit."""
    if not isinstance(window_size, tuple | list) or len(window_size) != 2:
        raise TypeError(f"window_size: got {window_size!r}, expected a pair (left, right)")
    left, right = (integer("window_size", side, least=-1) for side in window_size)
    return (None if left < 0 else left), (None if right < 0 else right)


def check_block_size(block_size: Any) -> None:
    """A positive integer, or None. The daemon chooses its tiles itself: it changes no result."""
    if block_size is not None:
        integer("block_size", block_size, least=1, most=1 << 16)


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def _short(entries: list[int]) -> str:
    return f"{entries[:4]}{'...' if len(entries) > 4 else ''}"
