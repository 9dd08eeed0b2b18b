# SPDX-License-Identifier: Apache-2.0
"""Attention over dense batches: `flash_attn_func` and its packed forms."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

import attnd
from attnd.errors import InvalidArgument
from flash_attention_amd.arguments import check_block_size, check_tensor, make_options
from flash_attention_amd.autograd import attention

_Outputs = torch.Tensor | tuple[torch.Tensor, torch.Tensor, None]


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = False,
    softmax_scale: float | None = None,
    dropout_p: float = 0.0,
    block_size: int | None = None,
    *,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = True,
    return_attn_probs: bool = False,
    client: attnd.Client | None = None,
) -> _Outputs:
    """softmax(softmax_scale q k^T) v, without the matrix of scores, with gradients.

    Args:
        q: [B, Sq, Hq, D] of any device and strides; f32, f16 or bf16.
        k, v: [B, Sk, Hkv, D], q's dtype and device; Hkv divides Hq (grouped queries).
        causal: query i sees keys up to Sk - Sq + i: aligned to the lower right corner.
        softmax_scale: of the scores; None: 1 / sqrt(D).
        dropout_p: in [0, 1), of the probabilities. Its seed comes from torch's generator:
            torch.manual_seed makes it repeat.
        block_size: checked (1 to 65536), and without effect: the daemon chooses its tiles.
        window_size: (left, right), keys seen before and after the query's own position; -1: all.
        softcap: scores become softcap * tanh(score / softcap); 0: off.
        alibi_slopes: f32 [Hq] or [B, Hq]; slope * |Sk - Sq + i - j| is subtracted. No gradient.
        deterministic: without effect: forward and backward always are.
        return_attn_probs: also return the log-sum-exp.
        client: of a daemon; None: `attnd.connect()`.

    Returns:
        [B, Sq, Hq, D], q's dtype and device. With return_attn_probs (out, lse, None): lse f32
        [B, Hq, Sq], natural logarithm; the probabilities themselves are nowhere in memory.

    Raises:
        InvalidArgument, TypeError: an argument does not fit; names it.
        Unimplemented: no kernel for the combination, or the gradient of a gradient.
        Unavailable: no daemon.

    Source: Dao, "FlashAttention-2: faster attention with better parallelism and work partitioning",
    2023. FlashAttention's own package has another order of arguments after v: name them.
    """
    options = make_options(
        causal=causal,
        softmax_scale=softmax_scale,
        window_size=window_size,
        softcap=softcap,
        dropout_p=dropout_p,
    )
    check_block_size(block_size)
    out, lse = attend(q, k, v, options=options, alibi_slopes=alibi_slopes, client=client)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_kvpacked_func(q: torch.Tensor, kv: torch.Tensor, **options: Any) -> _Outputs:
    """`flash_attn_func` of kv [B, Sk, 2, Hkv, D]; `options` are its arguments after v, by name."""
    k, v = unpack("kv", kv, 2, rank=5)
    return flash_attn_func(q, k, v, **options)


def flash_attn_qkvpacked_func(qkv: torch.Tensor, **options: Any) -> _Outputs:
    """`flash_attn_func` of qkv [B, S, 3, H, D]; `options` are its arguments after v, by name."""
    q, k, v = unpack("qkv", qkv, 3, rank=5)
    return flash_attn_func(q, k, v, **options)


def unpack(name: str, packed: Any, count: int, *, rank: int) -> tuple[torch.Tensor, ...]:
    """The `count` tensors along the third last dimension, as views."""
    check_tensor(name, packed, rank=rank)
    if packed.shape[-3] != count:
        raise InvalidArgument(
            f"{name}: got shape {list(packed.shape)}, expected {count} in dimension {rank - 3}"
        )
    parts: tuple[torch.Tensor, ...] = packed.unbind(-3)
    return parts


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    options: attnd.Options,
    alibi_slopes: Any = None,
    cu_seqlens_q: Seq[int] | None = None,
    cu_seqlens_k: Seq[int] | None = None,
    client: attnd.Client | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`autograd.attention`, with ALiBi slopes for each sequence ([B, Hq]) where they are given."""
    if alibi_slopes is None or getattr(alibi_slopes, "ndim", 1) != 2:
        if alibi_slopes is not None:
            options = replace(options, alibi_slopes=_slopes(alibi_slopes))
        return attention(
            q,
            k,
            v,
            options=options,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            client=client,
        )
    slopes = _slopes(alibi_slopes)
    batch = len(q) if cu_seqlens_q is None else len(cu_seqlens_q) - 1
    if len(slopes) != batch:
        raise InvalidArgument(
            f"alibi_slopes: got shape {list(slopes.shape)}, expected [{q.shape[-2]}] or "
            f"[{batch}, {q.shape[-2]}]"
        )
    results = []
    for b in range(batch):
        own = replace(options, alibi_slopes=slopes[b])
        if options.dropout is not None:
            own = replace(own, dropout=replace(options.dropout, subsequence=b))
        if cu_seqlens_q is None or cu_seqlens_k is None:
            item = slice(b, b + 1)
            results.append(attention(q[item], k[item], v[item], options=own, client=client))
            continue
        (q0, q1), (k0, k1) = (list(pairwise(cuts))[b] for cuts in (cu_seqlens_q, cu_seqlens_k))
        results.append(
            attention(
                q[q0:q1],
                k[k0:k1],
                v[k0:k1],
                options=own,
                cu_seqlens_q=[0, q1 - q0],
                cu_seqlens_k=[0, k1 - k0],
                client=client,
            )
        )
    outs, lses = zip(*results, strict=True)
    return torch.cat(outs), torch.cat(lses, 0 if cu_seqlens_q is None else 1)


def _slopes(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        got = value.dtype if isinstance(value, torch.Tensor) else type(value).__qualname__
        raise InvalidArgument(f"alibi_slopes: got {got}, expected a torch.float32 tensor")
    return value
