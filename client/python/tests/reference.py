# SPDX-License-Identifier: Apache-2.0
"""Attention in numpy and fp64, as the proto's AttentionOptions say it: what the tests compare with.

Written from the formula, one query head at a time, so that it shares nothing with what it checks.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np

import attnd
from attnd import tensors
from attnd._proto import types_pb2


def widen(raw: np.ndarray, dtype: int) -> np.ndarray:
    """Wire values to float64."""
    if dtype == tensors.BF16:
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw.astype(np.float64)


def narrow(values: np.ndarray, dtype: int) -> np.ndarray:
    """float64 to wire values, rounded to nearest even."""
    if dtype == tensors.F32:
        return values.astype(np.float32)
    if dtype == tensors.F16:
        return values.astype(np.float16)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def round_to(values: np.ndarray, dtype: int) -> np.ndarray:
    """What is left of the values after storage in `dtype`."""
    return widen(narrow(values, dtype), dtype)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    start: int,
    options: types_pb2.AttentionOptions,
    sinks: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """q [n, Hq, Dk] at positions from `start`, k [m, Hkv, Dk], v [m, Hkv, Dv] at positions from 0.

    sinks: [Hq] logits that join the denominator. Returns out [n, Hq, Dv] and lse [Hq, n]. No
    dropout, ALiBi or tree mask.
    """
    n, query_heads, dim = q.shape
    group = query_heads // k.shape[1]
    scale = options.softmax_scale if options.HasField("softmax_scale") else dim**-0.5
    position = start + np.arange(n)[:, None]
    key = np.arange(len(k))[None, :]
    seen = np.ones((n, len(k)), bool)
    if options.causal:
        seen &= key <= position
    if options.HasField("window_left"):
        seen &= key >= position - options.window_left
    if options.HasField("window_right"):
        seen &= key <= position + options.window_right
    out = np.zeros((n, query_heads, v.shape[2]))
    lse = np.full((query_heads, n), -np.inf)
    some = seen.any(axis=1)
    if not some.any():
        return out, lse
    for head in range(query_heads):
        scores = scale * (q[some, head] @ k[:, head // group].T)
        if options.softcap:
            scores = options.softcap * np.tanh(scores / options.softcap)
        scores = np.where(seen[some], scores, -np.inf)
        highest = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - highest)
        total = weights.sum(axis=1, keepdims=True)
        if sinks is not None:
            total += np.exp(sinks[head] - highest)
        out[some, head] = (weights / total) @ v[:, head // group]
        lse[head, some] = (highest + np.log(total))[:, 0]
    return out, lse


def last_output(items: Seq[attnd.Item]) -> np.ndarray:
    """Causal attention of the last item over the keys and values that all items wrote in turn."""
    k, v = (np.concatenate([getattr(item, part) for item in items]) for part in "kv")
    options = types_pb2.AttentionOptions(causal=True)
    return attention(items[-1].q, k, v, start=items[-1].start, options=options)[0]


def stateless(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attention without a mask, q [n, Hq, Dk]."""
    return attention(q, k, v, start=0, options=types_pb2.AttentionOptions())[0]


def close(out: np.ndarray, want: np.ndarray) -> bool:
    """Within the bound of fp32."""
    return bool(np.linalg.norm(out - want) <= 1e-6 * np.linalg.norm(want))
