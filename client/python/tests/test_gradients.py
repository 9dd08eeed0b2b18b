# SPDX-License-Identifier: Apache-2.0
"""Gradients of attention against fp64, over random cases; what the backward pass remembers."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import attnd
import torch_reference
from flash_attention_amd import backward, flash_attn_func
from flash_attention_amd.autograd import attention

pytestmark = pytest.mark.usefixtures("real_client")

# Relative L2 of out, lse and the gradients. Measured worst over 1,296 cases: 2.5e-6 (1.1e-5 where
# ALiBi makes scores of -90, which the check allows for), 3.0e-4 and 1.9e-3.
BOUNDS = {torch.float32: 3e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}


def random_options(rng: random.Random, heads: int) -> attnd.Options:
    """Each feature in about half of the cases."""
    some = lambda value: value if rng.random() < 0.5 else None  # noqa: E731
    return attnd.Options(
        causal=rng.random() < 0.5,
        softmax_scale=some(rng.uniform(0.05, 0.4)),
        window_left=some(rng.randrange(0, 60)),
        window_right=some(rng.randrange(0, 60)),
        softcap=some(rng.uniform(2.0, 20.0)) or 0.0,
        alibi_slopes=some(torch.rand(heads)),
        sinks=some(torch.randn(heads)),
        dropout=some(
            attnd.Dropout(
                probability=rng.uniform(0.05, 0.6),
                seed=rng.getrandbits(64),
                subsequence=rng.choice([0, 2**32 - 2]),
            )
        ),
    )


def check(
    inputs: tuple[torch.Tensor, ...],
    options: attnd.Options,
    cuts: tuple[list[int], list[int]] | None,
) -> None:
    """Out, lse, and the gradients through both, against fp64."""
    q, k, v = (x.requires_grad_() for x in inputs)
    doubles = [x.detach().double().requires_grad_() for x in (q, k, v)]
    if cuts is None:
        out, lse = attention(q, k, v, options=options)
        want_out, want_lse = torch_reference.dense(*doubles, options)
    else:
        out, lse = attention(q, k, v, options=options, cu_seqlens_q=cuts[0], cu_seqlens_k=cuts[1])
        want_out, want_lse = torch_reference.ragged(*doubles, *cuts, options)
    bound = BOUNDS[q.dtype]
    if q.dtype == torch.float32:
        # A score of 100 is rounded to 100 * 2^-24, and its probability by that factor.
        finite = want_lse.detach().nan_to_num(0.0, 0.0, 0.0)
        bound *= max(1.0, float(finite.abs().max()) / 8)
    assert out.dtype == q.dtype
    assert torch_reference.relative_error(out, want_out) < bound
    assert torch_reference.relative_error(lse, want_lse) < 1e-5
    grad_out, grad_lse = torch.randn_like(out), torch.randn_like(lse)
    got = torch.autograd.grad((out, lse), (q, k, v), (grad_out, grad_lse))
    # A row that sees nothing has an LSE of -inf, through which no gradient comes.
    seen = want_lse.isfinite()
    wanted = torch.autograd.grad(
        (want_out, want_lse[seen]), doubles, (grad_out.double(), grad_lse[seen].double())
    )
    # dS = P (dP - dO . O) cancels: all of it where a row sees one key. What the rounding of the
    # output alone costs there joins the norm that errors are measured by.
    scale = options.softmax_scale or q.shape[-1] ** -0.5
    row_norms = grad_out.double().norm(dim=-1) * want_out.detach().norm(dim=-1)
    floor = scale * float(row_norms.norm()) / v.shape[-1] ** 0.5
    k_norm, q_norm = (float(x.detach().norm(dim=-1).mean()) for x in (doubles[1], doubles[0]))
    floors = floor * k_norm, floor * q_norm, 0.0
    for name, a, b, floor in zip("qkv", got, wanted, floors, strict=True):
        assert a.dtype == q.dtype
        assert a.shape == b.shape
        b = torch.nan_to_num(b)
        error = float((a.double() - b).norm()) / (float(b.norm()) + floor or 1.0)
        assert error < bound, f"d{name}: {error:.2e}"


@pytest.mark.parametrize("case", range(24))
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_gradients_equal_fp64(
    case: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    rng = random.Random(seed)
    torch.manual_seed(seed)
    if case % 3:  # Many blocks of small shapes, and the blocks as they are.
        monkeypatch.setitem(backward.BLOCK, "cpu", rng.choice([4, 16, 20]))
        monkeypatch.setitem(backward.MOST_ELEMENTS, "cpu", rng.choice([1, 1 << 23]))
    kv_heads, group = rng.choice([(1, 1), (2, 2), (3, 1), (1, 4)])
    dims = rng.choice([8, 32, 64]), rng.choice([8, 32, 64])
    batch = rng.randrange(1, 4)
    if case % 2:
        rows = [rng.randrange(0, 70) for _ in range(batch)]
        keys = [rng.randrange(0, 70) for _ in range(batch)]
        rows[0], keys[0] = rows[0] or 1, keys[0] or 1
        cuts = [0, *np.cumsum(rows).tolist()], [0, *np.cumsum(keys).tolist()]
        shapes = (sum(rows),), (sum(keys),), (sum(keys),)
    else:
        most = 90 if case % 3 else 600
        cuts = None
        keys_of_all = (batch, rng.randrange(1, most))
        shapes = (batch, rng.randrange(1, most)), keys_of_all, keys_of_all
    heads = kv_heads * group, kv_heads, kv_heads
    last = dims[0], dims[0], dims[1]
    inputs = tuple(
        torch.randn(*shape, h, d).to(dtype) for shape, h, d in zip(shapes, heads, last, strict=True)
    )
    check(inputs, random_options(rng, heads[0]), cuts)


class LargestTensor(TorchDispatchMode):
    """Watches every operation of PyTorch for the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_no_score_matrix_is_ever_in_memory() -> None:
    torch.manual_seed(5)
    length, heads = 2048, 2
    q, k, v = (torch.randn(1, length, heads, 16) for _ in range(3))
    options = attnd.Options(causal=True)
    out, lse = attention(q, k, v, options=options)
    scores = backward.Scores(True, 0.25, None, None, 0.0, None, None)
    with LargestTensor() as watched:
        backward.attention_backward(
            torch.randn_like(out), torch.zeros_like(lse), q, k, v, out, lse, scores, None, None
        )
    block = heads * backward.BLOCK["cpu"] ** 2
    assert watched.elements <= max(block, q.numel())
    assert watched.elements * 8 < heads * length**2


def test_gradients_are_deterministic() -> None:
    q, k, v = (torch.randn(2, 300, 4, 32, requires_grad=True) for _ in range(3))
    dropout = attnd.Dropout(probability=0.2, seed=11)
    grads = []
    for _ in range(2):
        out, _ = attention(q, k, v, options=attnd.Options(causal=True, dropout=dropout))
        grads.append(torch.autograd.grad(out.square().sum(), (q, k, v)))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_gradients_of_those_alone_that_require_one() -> None:
    q, k, v = (torch.randn(1, 12, 2, 16) for _ in range(3))
    v.requires_grad_()
    flash_attn_func(q, k, v).sum().backward()
    assert (q.grad, k.grad) == (None, None)
    # Each row's probabilities sum to 1.
    assert torch.allclose(v.grad.sum(1), torch.full((1, 2, 16), 12.0), rtol=1e-5)


def test_the_seed_of_dropout_comes_from_torch() -> None:
    q = torch.randn(1, 40, 2, 16)
    torch.manual_seed(8)
    first = flash_attn_func(q, q, q, dropout_p=0.5)
    second = flash_attn_func(q, q, q, dropout_p=0.5)
    torch.manual_seed(8)
    assert torch.equal(flash_attn_func(q, q, q, dropout_p=0.5), first)
    assert not torch.equal(first, second)


def test_checkpointing_draws_the_same_mask() -> None:
    from torch.utils.checkpoint import checkpoint

    q = torch.randn(1, 40, 2, 16, requires_grad=True)
    grads = []
    recompute = partial(checkpoint, flash_attn_func, use_reentrant=False)
    for run in (flash_attn_func, recompute):
        torch.manual_seed(9)
        out = run(q, q, q, dropout_p=0.3)
        grads.append(torch.autograd.grad(out.sum(), q)[0])
    assert torch.equal(*grads)


def test_a_second_derivative_is_refused() -> None:
    q = torch.randn(1, 8, 2, 16, requires_grad=True)
    (grad,) = torch.autograd.grad(flash_attn_func(q, q, q).square().sum(), q, create_graph=True)
    with pytest.raises(attnd.Unimplemented, match="got a second derivative"):
        (grad * q).sum().backward()


def test_gradients_of_slopes_and_sinks_are_refused() -> None:
    q = torch.randn(1, 8, 2, 16, requires_grad=True)
    slopes = torch.rand(2, requires_grad=True)
    with pytest.raises(attnd.InvalidArgument, match="alibi_slopes: requires a gradient"):
        flash_attn_func(q, q, q, alibi_slopes=slopes)
    with pytest.raises(attnd.InvalidArgument, match="sinks: requires a gradient"):
        attention(q, q, q, options=attnd.Options(sinks=slopes))
    with torch.no_grad():
        assert not flash_attn_func(q, q, q, alibi_slopes=slopes).requires_grad


def test_torch_compile_takes_the_operators() -> None:
    torch.manual_seed(4)
    q, k, v = (torch.randn(1, 24, 2, 16, requires_grad=True) for _ in range(3))

    def step(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flash_attn_func(q * 2, k, v, causal=True, window_size=(9, 0)).sin()

    want = step(q, k, v)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    got = compiled(q, k, v)
    assert torch.equal(got, want)
    weights = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, (q, k, v), weights),
        torch.autograd.grad(want, (q, k, v), weights),
        strict=True,
    ):
        assert torch.equal(a, b)
    compiled_dropout = torch.compile(
        lambda x: flash_attn_func(x, x, x, dropout_p=0.5), backend="aot_eager", fullgraph=True
    )
    assert not torch.equal(compiled_dropout(q), compiled_dropout(q))


def test_autocast_follows_q() -> None:
    torch.manual_seed(6)
    x = torch.randn(1, 20, 32, requires_grad=True)
    project = torch.nn.Linear(32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = project(x).view(1, 20, 2, 16)
        k = x.view(1, 20, 2, 16)  # fp32, as after a normalisation.
        out = flash_attn_func(q, k, k, causal=True)
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    q64 = q.detach().double()
    want, _ = torch_reference.dense(q64, k.double(), k.double(), attnd.Options(causal=True))
    assert torch_reference.relative_error(out, want) < 9e-3
    with pytest.raises(
        attnd.InvalidArgument, match=r"k: got dtype torch\.float32, expected torch\.b"
    ):
        flash_attn_func(q, k, k)
