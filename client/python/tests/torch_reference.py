# SPDX-License-Identifier: Apache-2.0
"""Attention in PyTorch and fp64 with every option, differentiable: what gradients are held to.

Written from the proto's formula, with the whole matrix of scores; shares only the dropout mask with
what it checks, and test_philox.py holds that to the daemon's.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import torch

import attnd
from attnd import philox


def seen_keys(rows: int, keys: int, options: attnd.Options) -> torch.Tensor:
    """bool [rows, keys]."""
    position = torch.arange(rows)[:, None] + keys - rows
    key = torch.arange(keys)[None]
    seen = torch.ones(rows, keys, dtype=torch.bool)
    if options.causal:
        seen &= key <= position
    if options.window_left is not None:
        seen &= key >= position - options.window_left
    if options.window_right is not None:
        seen &= key <= position + options.window_right
    return seen


def dropout_factor(
    dropout: attnd.Dropout, batch: int, heads: int, rows: int, keys: int
) -> torch.Tensor:
    """0 or 1 / (1 - p), fp64 [batch, heads, rows, keys]."""
    keep = philox.keep_mask(
        dropout,
        heads=torch.arange(heads)[:, None, None],
        query_positions=torch.arange(rows)[:, None] + keys - rows,
        num_keys=keys,
        subsequences=torch.arange(batch)[:, None, None, None],
    )
    return keep.double() * philox.scale(dropout)


def dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: attnd.Options
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, S, H, D] in, out [B, Sq, Hq, Dv] and lse [B, Hq, Sq], fp64."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    batch, heads, rows, dim = q.shape
    keys = k.shape[2]
    k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    scale = dim**-0.5 if options.softmax_scale is None else options.softmax_scale
    scores = q @ k.mT * scale
    if options.softcap:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    if options.alibi_slopes is not None:
        distance = (torch.arange(rows)[:, None] + keys - rows - torch.arange(keys)).abs()
        scores = scores - options.alibi_slopes.double()[:, None, None] * distance
    scores = scores.masked_fill(~seen_keys(rows, keys, options), -torch.inf)
    if options.sinks is not None:
        sink = options.sinks.double()[None, :, None, None].expand(batch, heads, rows, 1)
        scores = torch.cat([scores, sink], -1)
    lse = scores.logsumexp(-1)
    # A row that sees nothing: zeros, and no gradient.
    shift = lse.masked_fill(lse == -torch.inf, 0)[..., None]
    weights = torch.exp(scores - shift)[..., :keys]
    if options.dropout is not None:
        weights = weights * dropout_factor(options.dropout, batch, heads, rows, keys)
    return (weights @ v).transpose(1, 2), lse


def ragged(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cuts_q: list[int],
    cuts_k: list[int],
    options: attnd.Options,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[total, H, D] in, out [total_q, Hq, Dv] and lse [Hq, total_q], fp64."""
    outs, lses = [], []
    for b, ((q0, q1), (k0, k1)) in enumerate(zip(pairwise(cuts_q), pairwise(cuts_k), strict=True)):
        own = options
        if options.dropout is not None:
            drop = dataclasses.replace(options.dropout, subsequence=options.dropout.subsequence + b)
            own = dataclasses.replace(options, dropout=drop)
        out, lse = dense(q[None, q0:q1], k[None, k0:k1], v[None, k0:k1], own)
        outs.append(out[0])
        lses.append(lse[0])
    return torch.cat(outs), torch.cat(lses, 1)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """L2 of the difference over the L2 of `want`; infinities must agree."""
    got, want = got.detach().double(), want.detach().double()
    finite = want.isfinite()
    assert torch.equal(got.isfinite(), finite)
    assert torch.equal(got[~finite], want[~finite])
    norm = float(want[finite].norm())
    return float((got - want)[finite].norm()) / (norm or 1.0)
