# SPDX-License-Identifier: Apache-2.0
"""The stateless call, dense and ragged, against PyTorch in fp64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import attnd


def torch_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[B, S, H, D], causal to the lower right corner, fp64."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2)


def test_dense_equals_pytorch(client: attnd.Client) -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, s, h, 64) for s, h in ((9, 6), (14, 3), (14, 3)))
    result = client.flash_attention(q, k, v, options=attnd.Options(causal=True, return_lse=True))
    want = torch_attention(q, k, v)
    assert torch.linalg.norm(result.out.double() - want) < 1e-6 * torch.linalg.norm(want)
    assert result.out.dtype == torch.float32
    assert result.lse.shape == (2, 6, 9)


def test_ragged_equals_dense_sequence_by_sequence(client: attnd.Client) -> None:
    rng = np.random.default_rng(4)
    lengths = [5, 1, 17]
    cuts = np.cumsum([0, *lengths])
    q = rng.standard_normal((23, 4, 32), np.float32)
    k, v = rng.standard_normal((2, 23, 4, 32), np.float32)
    options = attnd.Options(causal=True, return_lse=True)
    ragged = client.flash_attention(
        q, k, v, cu_seqlens_q=cuts, cu_seqlens_k=torch.from_numpy(cuts), options=options
    )
    assert ragged.lse.shape == (4, 23)
    for begin, end in pairwise(cuts):
        rows = slice(begin, end)
        alone = client.flash_attention(q[None, rows], k[None, rows], v[None, rows], options=options)
        assert np.array_equal(alone.out[0], ragged.out[rows])
        assert np.array_equal(alone.lse[0], ragged.lse[:, rows])


def test_messages_name_argument_value_and_expectation(client: attnd.Client) -> None:
    q = np.zeros((1, 2, 4, 32), np.float32)
    with pytest.raises(attnd.InvalidArgument, match=r"k: got dtype f16, expected f32 like q"):
        client.flash_attention(q, q.astype(np.float16), q)
    with pytest.raises(attnd.InvalidArgument, match=r"q: got shape \[2, 4, 32\] of 3 dimensions"):
        client.flash_attention(q[0], q, q)
    with pytest.raises(attnd.InvalidArgument, match=r"cu_seqlens_k: got None"):
        client.flash_attention(q[0], q[0], q[0], cu_seqlens_q=[0, 2])
    with pytest.raises(attnd.InvalidArgument, match="cu_seqlens"):
        client.flash_attention(q[0], q[0], q[0], cu_seqlens_q=[0, 3], cu_seqlens_k=[0, 2])
    with pytest.raises(attnd.InvalidArgument, match=r"dropout.probability: got 1.0"):
        dropout = attnd.Dropout(probability=1.0, seed=1)
        client.flash_attention(q, q, q, options=attnd.Options(dropout=dropout))
