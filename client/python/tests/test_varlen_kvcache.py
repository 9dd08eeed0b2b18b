# SPDX-License-Identifier: Apache-2.0
"""Ragged batches and caches in the caller's tensors, against fp64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import attnd
import torch_reference
from flash_attention_amd import (
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_attn_with_kvcache,
)

pytestmark = pytest.mark.usefixtures("real_client")
BOUNDS = {torch.float32: 3e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    torch.manual_seed(seed)


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_varlen_equals_fp64() -> None:
    cuts_q, cuts_k = [0, 7, 7, 30], [0, 20, 25, 40]
    q = torch.randn(30, 4, 32, requires_grad=True)
    k, v = (torch.randn(40, 2, 32, requires_grad=True) for _ in range(2))
    out, lse, probabilities = flash_attn_varlen_func(
        q,
        k,
        v,
        int32(*cuts_q),
        int32(*cuts_k),
        23,
        20,
        causal=True,
        window_size=(10, 0),
        return_attn_probs=True,
    )
    options = attnd.Options(causal=True, window_left=10)
    want, want_lse = torch_reference.ragged(q, k, v, cuts_q, cuts_k, options)
    assert torch_reference.relative_error(out, want) < 3e-6
    assert torch_reference.relative_error(lse, want_lse) < 3e-6
    assert probabilities is None
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    wanted = torch.autograd.grad(want.square().sum(), (q, k, v))
    for a, b in zip(grads, wanted, strict=True):
        assert torch_reference.relative_error(a, b) < 1e-5


def test_varlen_packed_slopes_and_dropout() -> None:
    qkv = torch.randn(24, 3, 4, 16)
    cuts, slopes = int32(0, 9, 24), torch.rand(2, 4)
    q, k, v = qkv.unbind(1)
    results = []
    for call in (
        lambda: flash_attn_varlen_func(
            q, k, v, cuts, cuts, 15, 15, 0.3, None, True, alibi_slopes=slopes
        ),
        lambda: flash_attn_varlen_qkvpacked_func(
            qkv, cuts, 15, dropout_p=0.3, causal=True, alibi_slopes=slopes
        ),
        lambda: flash_attn_varlen_kvpacked_func(
            q, qkv[:, 1:], cuts, cuts, 15, 15, dropout_p=0.3, causal=True, alibi_slopes=slopes
        ),
    ):
        torch.manual_seed(1)
        results.append(call())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    torch.manual_seed(1)
    seed = int(torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64)) % 2**64
    for b, (begin, end) in enumerate(pairwise(cuts.tolist())):
        options = attnd.Options(
            causal=True,
            alibi_slopes=slopes[b],
            dropout=attnd.Dropout(probability=0.3, seed=seed, subsequence=b),
        )
        part = slice(begin, end)
        want, _ = torch_reference.dense(q[None, part], k[None, part], v[None, part], options)
        assert torch_reference.relative_error(results[0][part], want[0]) < 3e-6


def test_varlen_over_pages_with_gradients() -> None:
    pages_k, pages_v = (torch.randn(6, 8, 2, 16, requires_grad=True) for _ in range(2))
    table = int32(5, 0, 3, 2, 4, 4).view(2, 3)  # The last entry is beyond its sequence.
    lengths = [19, 11]
    cuts_k = [0, 19, 30]
    q = torch.randn(8, 4, 16)
    out = flash_attn_varlen_func(
        q, pages_k, pages_v, int32(0, 3, 8), int32(*cuts_k), 5, 19, causal=True, block_table=table
    )
    k, v = (
        torch.cat([pages[table[b].long()].flatten(0, 1)[:n] for b, n in enumerate(lengths)])
        for pages in (pages_k, pages_v)
    )
    want, _ = torch_reference.ragged(q, k, v, [0, 3, 8], cuts_k, attnd.Options(causal=True))
    assert torch_reference.relative_error(out, want) < 3e-6
    got = torch.autograd.grad(out.sum(), (pages_k, pages_v))
    wanted = torch.autograd.grad(want.sum(), (pages_k, pages_v))
    for a, b in zip(got, wanted, strict=True):
        assert torch_reference.relative_error(a, b) < 1e-5
        assert not a[1].any()  # A page of nobody.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens_q": int32(0, 3)}, "cu_seqlens_q: got 3 as the last entry, expected 8"),
        ({"cu_seqlens_q": int32(1, 3, 8)}, r"cu_seqlens_q: got \[1, 3, 8\], expected at least 2 e"),
        ({"cu_seqlens_k": int32(0, 9, 8)}, "cu_seqlens_k: got 8 after 9, expected entries that do"),
        ({"cu_seqlens_k": int32(0, 8)}, "cu_seqlens_k: got 2 entries, expected 3 like cu_seqlens"),
        ({"cu_seqlens_k": None}, "cu_seqlens_k: got None"),
        ({"cu_seqlens_q": torch.tensor([0.0, 8.0])}, r"cu_seqlens_q: got torch\.float32 of shape"),
        ({"cu_seqlens_q": int32(0)}, r"cu_seqlens_q: got \[0\], expected at least 2"),
        ({"max_seqlen_q": 4}, "max_seqlen_q: got 4, expected at least 5"),
        ({"q": torch.zeros(2, 8, 4, 16)}, r"q: got shape \[2, 8, 4, 16\] of 4 dimensions"),
        ({"block_table": int32(0, 1)}, "k: got shape .* of 3 dimensions, expected 4"),
    ],
)
def test_varlen_bad_input(change: dict[str, object], message: str) -> None:
    x = torch.zeros(8, 4, 16)
    arguments = {
        "q": x,
        "k": x,
        "v": x,
        "cu_seqlens_q": int32(0, 3, 8),
        "cu_seqlens_k": int32(0, 3, 8),
        "max_seqlen_q": 5,
        "max_seqlen_k": 8,
    }
    with pytest.raises(attnd.InvalidArgument, match=message):
        flash_attn_varlen_func(**{**arguments, **change})


def rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, first: int, step: int, pairs: str
) -> torch.Tensor:
    """[S, H, D], row i at position first + i * step; complex numbers in fp64."""
    half = cos.shape[1]
    at = first + step * torch.arange(len(x))
    turn = torch.complex(cos[at].double(), sin[at].double())[:, None]
    x = x.double().clone()
    low, high = (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
    if pairs == "halves":
        low, high = slice(0, half), slice(half, 2 * half)
    turned = torch.complex(x[..., low], x[..., high]) * turn
    x[..., low], x[..., high] = turned.real, turned.imag
    return x


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("pairs", [None, "interleaved", "halves"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kvcache_equals_fp64(
    paged: bool, pairs: str | None, causal: bool, dtype: torch.dtype
) -> None:
    batch, rows, new, heads, kv_heads, dim = 3, 4, 5, 4, 2, 32
    before = [0, 13, 30]
    q = torch.randn(batch, rows, heads, dim).to(dtype)
    k, v = (torch.randn(batch, new, kv_heads, dim).to(dtype) for _ in range(2))
    angles = torch.rand(40, 12)
    cos, sin = (angles.cos(), angles.sin()) if pairs else (None, None)
    if paged:
        order = torch.randperm(16)[:15].view(batch, 5).int()
        caches = [torch.randn(16, 8, kv_heads, dim).to(dtype) for _ in range(2)]
        view = lambda cache, b: cache[order[b].long()].flatten(0, 1)  # noqa: E731
        extra = {"block_table": order}
    else:
        which = int32(4, 0, 2)
        caches = [torch.randn(5, 40, kv_heads, dim).to(dtype) for _ in range(2)]
        view = lambda cache, b: cache[which[b]]  # noqa: E731
        extra = {"cache_batch_idx": which, "cache_leftpad": int32(0, 6, 30)}
    old = [cache.clone() for cache in caches]
    out, lse = flash_attn_with_kvcache(
        q,
        *caches,
        k,
        v,
        rotary_cos=cos,
        rotary_sin=sin,
        rotary_interleaved=pairs == "interleaved",
        cache_seqlens=int32(*before),
        causal=causal,
        return_softmax_lse=True,
        **extra,
    )
    touched = 0
    for b in range(batch):
        end = before[b] + new
        pad = 0 if paged else [0, 6, 30][b]
        q_one, k_one = q[b].double(), k[b].double()
        if pairs:
            q_one = rotate(q[b], cos, sin, before[b], int(causal), pairs).to(dtype).double()
            k_one = rotate(k[b], cos, sin, before[b], 1, pairs).to(dtype).double()
        # What was written, and nothing else.
        for cache, was, wrote in zip(caches, old, (k_one, v[b].double()), strict=True):
            now = view(cache, b).double()
            assert torch.allclose(now[before[b] : end], wrote, atol=0, rtol=1e-2 if pairs else 0)
            changed = (now != view(was, b).double()).any(-1).any(-1)
            assert not changed[: before[b]].any()
            assert not changed[end:].any()
            touched += int(changed.sum())
        keys, values = (view(cache, b)[pad:end].double() for cache in caches)
        want, want_lse = torch_reference.dense(
            q_one[None], keys[None], values[None], attnd.Options(causal=causal)
        )
        assert torch_reference.relative_error(out[b], want[0]) < 3 * BOUNDS[dtype]
        assert torch_reference.relative_error(lse[b], want_lse[0]) < 3 * BOUNDS[dtype]
    assert touched == 2 * batch * new
    differing = sum(int((a != b).any(-1).any(-1).sum()) for a, b in zip(caches, old, strict=True))
    assert differing == touched


def test_kvcache_reads_without_new_keys() -> None:
    q = torch.randn(2, 1, 4, 16)
    caches = [torch.randn(2, 20, 2, 16) for _ in range(2)]
    slopes = torch.rand(2, 4)
    for seqlens, lengths in ((None, [20, 20]), (7, [7, 7]), (int32(0, 12), [0, 12])):
        out = flash_attn_with_kvcache(
            q, *caches, cache_seqlens=seqlens, causal=True, window_size=(5, 0), alibi_slopes=slopes
        )
        for b, length in enumerate(lengths):
            keys, values = (cache[b : b + 1, :length] for cache in caches)
            options = attnd.Options(causal=True, window_left=5, alibi_slopes=slopes[b])
            want, _ = torch_reference.dense(q[b : b + 1], keys, values, options)
            assert torch_reference.relative_error(out[b : b + 1], want) < 3e-6
    out, lse = flash_attn_with_kvcache(
        q, *caches, cache_seqlens=0, return_softmax_lse=True, num_splits=3
    )
    assert not out.any()
    assert (lse == -torch.inf).all()


def test_decoding_by_steps_equals_one_call() -> None:
    q, k, v = (torch.randn(2, 24, 4, 16) for _ in range(3))
    caches = [torch.zeros(2, 24, 4, 16) for _ in range(2)]
    steps = []
    for begin, end in pairwise([0, 9, 10, 11, 24]):
        part = slice(begin, end)
        steps.append(
            flash_attn_with_kvcache(
                q[:, part], *caches, k[:, part], v[:, part], cache_seqlens=begin, causal=True
            )
        )
    want, _ = torch_reference.dense(q, k, v, attnd.Options(causal=True))
    assert torch_reference.relative_error(torch.cat(steps, 1), want) < 3e-6
    assert torch.equal(caches[0], k)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": None}, "v: got None, expected both k and v or neither"),
        ({"cache_seqlens": None}, "cache_seqlens: got None with k and v"),
        (
            {"cache_seqlens": 9},
            r"cache_seqlens: got 10 tokens for sequence 0 with the new ones, exp",
        ),
        ({"cache_seqlens": 10}, "cache_seqlens: got 10, expected 0 to 9"),
        ({"cache_seqlens": int32(1, 2, 3)}, "cache_seqlens: got 3 entries, expected 2"),
        ({"cache_batch_idx": int32(0, 2)}, r"cache_batch_idx: got rows \[0, 2\] of a cache of 2"),
        ({"cache_leftpad": int32(0, 9)}, r"cache_leftpad: got \[0, 9\], expected 2 entries"),
        ({"k_cache": torch.zeros(2, 9, 3, 16)}, "k_cache: got shape .* divides q's 4"),
        ({"v_cache": torch.zeros(2, 8, 2, 16)}, r"v_cache: got shape \[2, 8, 2, 16\], expected"),
        ({"k_cache": torch.zeros(2, 9, 2, 16).half()}, "k_cache: got dtype torch.float16, expect"),
        (
            {"k": torch.zeros(2, 1, 4, 16)},
            r"k: got shape \[2, 1, 4, 16\], expected \[2, 1, 2, 16\]",
        ),
        ({"rotary_cos": torch.zeros(9, 9), "rotary_sin": torch.zeros(9, 9)}, "rotary_cos: got sha"),
        ({"rotary_cos": torch.zeros(1, 4), "rotary_sin": torch.zeros(9, 4)}, "rotary_cos: got sha"),
        ({"rotary_cos": torch.zeros(9, 4)}, "rotary_sin: got NoneType, expected a tensor"),
        ({"num_splits": -1}, "num_splits: got -1, expected 0"),
        ({"block_table": int32(0, 1)}, r"block_table: got shape \[2\], expected \[2, max_blocks\]"),
        ({"block_table": int32(0, 7).view(2, 1)}, "block_table: got pages 7 to 7 for sequence 1"),
        ({"block_table": torch.zeros(2, 1)}, r"block_table: got torch\.float32, expected"),
        (
            {"block_table": int32(0, 1).view(2, 1), "cache_seqlens": 9},
            "block_table: got 1 pages of 9 tokens for sequence 0, expected room for 10",
        ),
        (
            {"block_table": int32(0, 1).view(2, 1), "cache_leftpad": int32(0, 0)},
            "cache_leftpad: got one with block_table",
        ),
        ({"q": torch.zeros(2, 1, 4, 16, requires_grad=True)}, "q: requires a gradient"),
        (
            {"q": torch.zeros(0, 1, 4, 16)},
            r"q: got shape \[0, 1, 4, 16\], expected no size below 1",
        ),
    ],
)
def test_kvcache_bad_input_changes_nothing(change: dict[str, object], message: str) -> None:
    caches = [torch.zeros(2, 9, 2, 16) for _ in range(2)]
    arguments = {
        "q": torch.ones(2, 1, 4, 16),
        "k_cache": caches[0],
        "v_cache": caches[1],
        "k": torch.ones(2, 1, 2, 16),
        "v": torch.ones(2, 1, 2, 16),
        "cache_seqlens": 3,
    }
    with pytest.raises(attnd.InvalidArgument, match=message):
        flash_attn_with_kvcache(**{**arguments, **change})
    assert not caches[0].any()
    assert not caches[1].any()


def test_rotary_needs_new_keys() -> None:
    x = torch.zeros(1, 4, 2, 16)
    with pytest.raises(attnd.InvalidArgument, match="rotary_cos: got a tensor without k and v"):
        flash_attn_with_kvcache(x, x, x, rotary_cos=torch.ones(9, 8), rotary_sin=torch.ones(9, 8))
