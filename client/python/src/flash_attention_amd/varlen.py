# SPDX-License-Identifier: Apache-2.0
"""Attention over ragged batches: sequences of unequal lengths, one after another, no padding.

The signatures are FlashAttention's.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

import attnd
from attnd.errors import InvalidArgument
from attnd.options import integer
from flash_attention_amd.arguments import check_cu_seqlens, check_tensors, int_list, make_options
from flash_attention_amd.functional import _Outputs, attend, unpack
from flash_attention_amd.paged import gather_pages


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    deterministic: bool = True,
    return_attn_probs: bool = False,
    block_table: torch.Tensor | None = None,
    *,
    client: attnd.Client | None = None,
) -> _Outputs:
    """Attention within each sequence of a ragged batch, with gradients.

    Args:
        q: [total_q, Hq, D]; f32, f16 or bf16, any device and strides.
        k, v: [total_k, Hkv, D]; with block_table [num_blocks, page_block_size, Hkv, D].
        cu_seqlens_q, cu_seqlens_k: int32 [B + 1]: sequence b has rows [b] to [b + 1].
        max_seqlen_q, max_seqlen_k: at least the longest sequence; without effect beyond the check.
        block_table: int32 [B, max_blocks]: the pages of each sequence's keys, in order. Its
            gradients reach k and v page by page.
        dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, client:
            as of `flash_attn_func`.
        return_attn_probs: also return the log-sum-exp.

    Returns:
        [total_q, Hq, D]; with return_attn_probs (out, lse, None): lse f32 [Hq, total_q].

    Raises:
        As `flash_attn_func`.
    """
    options = make_options(
        causal=causal,
        softmax_scale=softmax_scale,
        window_size=window_size,
        softcap=softcap,
        dropout_p=dropout_p,
    )
    if block_table is not None:
        lengths = [b - a for a, b in pairwise(int_list("cu_seqlens_k", cu_seqlens_k))]
        if min(lengths, default=0) < 0:
            raise InvalidArgument("cu_seqlens_k: decreases, expected entries that do not")
        k = gather_pages("k", k, block_table, lengths)
        v = gather_pages("v", v, block_table, lengths)
    check_tensors(q, k, v, ragged=True)
    cuts_q, cuts_k = check_cu_seqlens(q, k, cu_seqlens_q, cu_seqlens_k)
    for name, most, cuts in (
        ("max_seqlen_q", max_seqlen_q, cuts_q),
        ("max_seqlen_k", max_seqlen_k, cuts_k),
    ):
        longest = max(b - a for a, b in pairwise(cuts))
        if integer(name, most) < longest:
            raise InvalidArgument(
                f"{name}: got {most}, expected at least {longest}, the longest sequence"
            )
    out, lse = attend(
        q,
        k,
        v,
        options=options,
        alibi_slopes=alibi_slopes,
        cu_seqlens_q=cuts_q,
        cu_seqlens_k=cuts_k,
        client=client,
    )
    return (out, lse, None) if return_attn_probs else out


def flash_attn_varlen_kvpacked_func(
    q: torch.Tensor,
    kv: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    **options: Any,
) -> _Outputs:
    """`flash_attn_varlen_func` of kv [total_k, 2, Hkv, D]; `options` are its, by name."""
    k, v = unpack("kv", kv, 2, rank=4)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options
    )


def flash_attn_varlen_qkvpacked_func(
    qkv: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int, **options: Any
) -> _Outputs:
    """`flash_attn_varlen_func` of qkv [total, 3, H, D]; `options` are its, by name."""
    q, k, v = unpack("qkv", qkv, 3, rank=4)
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options
    )
