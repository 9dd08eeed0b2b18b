# SPDX-License-Identifier: Apache-2.0
"""The backward pass of attention, block by block: no score matrix is ever in memory.

From q, k, v, the output and the log-sum-exp of its rows, a block of probabilities is computed
anew, used and thrown away. What it needs beside the gradients, in fp32, is a few blocks of `BLOCK`
queries by `BLOCK` keys of all heads. Blocks that the mask hides are skipped. Everything is in fp32,
whatever the dtype of the tensors, in one fixed order, so that the same inputs give the same bits.

Source: Dao, "FlashAttention-2", 2023, algorithm 2; dropout as in Dao et al., "FlashAttention",
2022, appendix B.4, with the mask drawn anew (attnd/philox.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from attnd import philox
from attnd.options import Dropout

# Queries of a block, and keys: a multiple of 4, for which one Philox call draws. On the CPU what
# fits its caches (of 32 to 512, 128 took least time: 8 heads of 64, 1024 tokens); elsewhere what is
# worth the launches.
BLOCK = {"cpu": 128}
_BLOCK = 512
# Most elements of a block of scores, [batch, heads, queries, keys]: how many sequences go at once.
MOST_ELEMENTS = {"cpu": 1 << 18}
_MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class Scores:
    """How the forward pass computed scores; as `attnd.Options`, with tensors for tensors."""

    causal: bool
    softmax_scale: float
    window_left: int | None
    window_right: int | None
    softcap: float
    alibi_slopes: torch.Tensor | None  # [Hq]
    dropout: Dropout | None


def attention_backward(
    grad_out: torch.Tensor,
    grad_lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scores: Scores,
    cu_seqlens_q: Seq[int] | None,
    cu_seqlens_k: Seq[int] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, in their shapes and dtypes.

    Args:
        grad_out: like out.
        grad_lse: like lse.
        q: [B, Sq, Hq, Dk]; ragged: [total_q, Hq, Dk]. k, v and out likewise.
        lse: f32 [B, Hq, Sq]; ragged: [Hq, total_q].
    """
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        grads = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        if cu_seqlens_q is None or cu_seqlens_k is None:
            block = BLOCK.get(q.device.type, _BLOCK)
            area = q.shape[2] * min(q.shape[1], block) * min(k.shape[1], block)
            step = max(1, MOST_ELEMENTS.get(q.device.type, _MOST_ELEMENTS) // area)
            for first in range(0, len(q), step):
                part = slice(first, first + step)
                found = _dense(
                    grad_out[part],
                    grad_lse[part],
                    q[part],
                    k[part],
                    v[part],
                    out[part],
                    lse[part],
                    _from_item(scores, first),
                )
                for grad, value in zip(grads, found, strict=True):
                    grad[part] = value
            return grads
        cuts = zip(pairwise(cu_seqlens_q), pairwise(cu_seqlens_k), strict=True)
        for index, ((q0, q1), (k0, k1)) in enumerate(cuts):
            if q0 == q1 or k0 == k1:
                continue  # No pair of a query and a key: no gradient.
            rows, keys = slice(q0, q1), slice(k0, k1)
            found = _dense(
                grad_out[None, rows],
                grad_lse[None, :, rows],
                q[None, rows],
                k[None, keys],
                v[None, keys],
                out[None, rows],
                lse[None, :, rows],
                _from_item(scores, index),
            )
            for grad, part, value in zip(grads, (rows, keys, keys), found, strict=True):
                grad[part] = value[0]
        return grads


def _from_item(scores: Scores, index: int) -> Scores:
    """The dropout of items counts up through the batch."""
    if scores.dropout is None or index == 0:
        return scores
    subsequence = (scores.dropout.subsequence + index) % (1 << 32)
    return replace(scores, dropout=replace(scores.dropout, subsequence=subsequence))


def _dense(
    grad_out: torch.Tensor,
    grad_lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scores: Scores,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of [B, S, H, D]: dq, dk and dv in fp32."""
    batch, rows, heads, dim = q.shape
    keys, kv_heads = v.shape[1:3]
    group = heads // kv_heads

    def by_kv_head(x: torch.Tensor) -> torch.Tensor:  # [B, S, Hq, D] to [B, Hkv, group, S, D]
        return x.reshape(batch, rows, kv_heads, group, x.shape[3]).permute(0, 2, 3, 1, 4)

    q, grad_out = by_kv_head(q), by_kv_head(grad_out)
    k, v = k.transpose(1, 2), v.transpose(1, 2)  # [B, Hkv, S, D]
    lse = lse.reshape(batch, kv_heads, group, rows, 1)
    # exp(score - inf) = 0: a row that sees nothing has no probabilities.
    lse = lse.masked_fill(lse == -torch.inf, torch.inf)
    # What each row's probabilities lose together: sum_j P_j dP_j = dO . O. The LSE's own gradient
    # is P_j, so that it joins here.
    loss = torch.linalg.vecdot(grad_out.float(), by_kv_head(out).float())[..., None]
    loss -= grad_lse.reshape(loss.shape)

    dq = q.new_zeros(q.shape, dtype=torch.float32)
    dk, dv = k.new_zeros(k.shape, dtype=torch.float32), v.new_zeros(v.shape, dtype=torch.float32)
    block = BLOCK.get(q.device.type, _BLOCK)
    for j0 in range(0, keys, block):
        j1 = min(j0 + block, keys)
        k_block, v_block = k[:, :, j0:j1].float(), v[:, :, j0:j1].float()
        for i0, i1 in _query_blocks(scores, rows, keys, j0, j1, block):
            area = (batch, kv_heads, group, i1 - i0, j1 - j0)
            flat = (batch, kv_heads, group * (i1 - i0), -1)
            q_block = q[:, :, :, i0:i1].float().reshape(flat)
            do_block = grad_out[:, :, :, i0:i1].float().reshape(flat)
            position = torch.arange(i0, i1, device=q.device)[:, None] + (keys - rows)
            key = torch.arange(j0, j1, device=q.device)

            s = (q_block @ k_block.mT).view(area).mul_(scores.softmax_scale)
            slope = None
            if scores.softcap > 0:
                capped = s.div_(scores.softcap).tanh_()
                slope = 1 - capped * capped
                s = capped * scores.softcap
            if scores.alibi_slopes is not None:
                distance = (position - key).abs()
                s -= scores.alibi_slopes.view(kv_heads, group, 1, 1).to(s.device) * distance
            p = s.sub_(lse[:, :, :, i0:i1]).exp_()
            hidden = _hidden(scores, position, key)
            if hidden is not None:
                p.masked_fill_(hidden, 0)
            dp = (do_block @ v_block.mT).view(area)
            kept = p
            if scores.dropout is not None:
                factor = _dropout_factor(scores.dropout, area, i0 + keys - rows, j0, q.device)
                kept, dp = p * factor, dp.mul_(factor)
            dv[:, :, j0:j1] += kept.view(flat).mT @ do_block
            ds = dp.sub_(loss[:, :, :, i0:i1]).mul_(p)
            if slope is not None:
                ds.mul_(slope)
            if hidden is not None:
                ds.masked_fill_(hidden, 0)  # Where a hidden key has a NaN, 0 * NaN stood here.
            flat_ds = ds.view(flat)
            dk[:, :, j0:j1] += flat_ds.mT @ q_block
            dq[:, :, :, i0:i1] += (flat_ds @ k_block).view(*area[:-1], dim)
    dq.mul_(scores.softmax_scale)
    dk.mul_(scores.softmax_scale)
    return (
        dq.permute(0, 3, 1, 2, 4).reshape(batch, rows, heads, dim),
        dk.transpose(1, 2),
        dv.transpose(1, 2),
    )


def _query_blocks(
    scores: Scores, rows: int, keys: int, j0: int, j1: int, block: int
) -> Iterator[tuple[int, int]]:
    """The blocks of queries of which some may see a key of [j0, j1)."""
    for i0 in range(0, rows, block):
        i1 = min(i0 + block, rows)
        first, last = i0 + keys - rows, i1 - 1 + keys - rows
        if scores.causal and j0 > last:
            continue
        if scores.window_right is not None and j0 > last + scores.window_right:
            continue
        if scores.window_left is not None and j1 - 1 < first - scores.window_left:
            continue
        yield i0, i1


def _hidden(scores: Scores, position: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    """Which pairs the mask hides, bool [queries, keys]; None where it hides none."""
    hidden = None
    for limit, applies in (
        (0, scores.causal),
        (scores.window_right, scores.window_right is not None),
    ):
        if applies and limit is not None:
            beyond = key > position + limit
            hidden = beyond if hidden is None else hidden | beyond
    if scores.window_left is not None:
        before = key < position - scores.window_left
        hidden = before if hidden is None else hidden | before
    return hidden


def _dropout_factor(
    dropout: Dropout,
    area: tuple[int, int, int, int, int],
    first_position: int,
    first_key: int,
    device: torch.device,
) -> torch.Tensor:
    """0 or 1 / (1 - p), f32 of `area`: [B, Hkv, group, queries, keys]."""
    batch, kv_heads, group, rows, keys = area

    def steps(count: int, dim: int) -> torch.Tensor:
        shape = [1] * 4
        shape[dim] = count
        return torch.arange(count, device=device).view(shape)

    keep: torch.Tensor = philox.keep_mask(
        dropout,
        heads=steps(kv_heads * group, 1),
        query_positions=steps(rows, 2) + first_position,
        first_key=first_key,
        num_keys=keys,
        subsequences=steps(batch, 0),
    )
    return keep.view(area).to(torch.float32).mul_(philox.scale(dropout))
