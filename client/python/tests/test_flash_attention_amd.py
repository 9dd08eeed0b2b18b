# SPDX-License-Identifier: Apache-2.0
"""The guide's API: functions, module, verify command; what they refuse."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import attnd
import flash_attention_amd as fa
import torch_reference
from conftest import SOURCE
from flash_attention_amd import FlashAttention, flash_attn_func
from flash_attention_amd.autograd import attention

pytestmark = pytest.mark.usefixtures("real_client")


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    torch.manual_seed(seed)


def assert_close(
    got: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object
) -> None:
    want, _ = torch_reference.dense(q, k, v, attnd.Options(**options))
    bound = {torch.float32: 3e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}[q.dtype]
    assert got.dtype == q.dtype
    assert torch_reference.relative_error(got, want) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_options_mean_what_flash_attention_means(dtype: torch.dtype) -> None:
    q = torch.randn(2, 37, 6, 32).to(dtype)
    k, v = (torch.randn(2, 51, 3, 32).to(dtype) for _ in range(2))
    slopes = torch.rand(6)
    assert_close(flash_attn_func(q, k, v), q, k, v)
    assert_close(flash_attn_func(q, k, v, True), q, k, v, causal=True)
    assert_close(flash_attn_func(q, k, v, softmax_scale=0.1), q, k, v, softmax_scale=0.1)
    assert_close(
        flash_attn_func(q, k, v, window_size=(9, -1), causal=True),
        q,
        k,
        v,
        window_left=9,
        causal=True,
    )
    assert_close(
        flash_attn_func(q, k, v, window_size=(-1, 4), softcap=5.0),
        q,
        k,
        v,
        window_right=4,
        softcap=5.0,
    )
    assert_close(flash_attn_func(q, k, v, alibi_slopes=slopes), q, k, v, alibi_slopes=slopes)


def test_lse_comes_with_return_attn_probs() -> None:
    q = torch.randn(2, 9, 4, 16)
    out, lse, probabilities = flash_attn_func(q, q, q, causal=True, return_attn_probs=True)
    _, want = torch_reference.dense(q, q, q, attnd.Options(causal=True))
    assert torch_reference.relative_error(lse, want) < 1e-6
    assert lse.shape == (2, 4, 9)
    assert probabilities is None
    assert torch.equal(out, flash_attn_func(q, q, q, causal=True, deterministic=True))


def test_block_size_changes_nothing() -> None:
    q = torch.randn(1, 300, 2, 64)
    results = [flash_attn_func(q, q, q, block_size=size) for size in (None, 1, 64, 128, 65536)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_slopes_for_each_sequence() -> None:
    q = torch.randn(3, 20, 2, 16, requires_grad=True)
    slopes = torch.rand(3, 2)
    out = flash_attn_func(q, q, q, causal=True, alibi_slopes=slopes)
    for b in range(3):
        one = q[b : b + 1]
        assert_close(out[b : b + 1], one, one, one, causal=True, alibi_slopes=slopes[b])
    out.sum().backward()
    assert q.grad.shape == q.shape
    with pytest.raises(attnd.InvalidArgument, match=r"alibi_slopes: got shape \[2, 2\], expected"):
        flash_attn_func(q, q, q, alibi_slopes=slopes[:2])


def test_any_strides() -> None:
    base = torch.randn(2, 4, 25, 48)  # [B, H, S, D], as many models have it
    q = base.transpose(1, 2)[..., ::3]
    k = base.flip(2).transpose(1, 2)[..., :16]
    v = base.transpose(1, 2)[:, :, :, 5:21].expand(2, 25, 4, 16)
    assert not q.is_contiguous()
    assert torch.equal(
        flash_attn_func(q, k, v), flash_attn_func(q.contiguous(), k.contiguous(), v.contiguous())
    )
    one = torch.randn(1, 1, 1, 16).expand(2, 6, 4, 16)
    assert torch.equal(flash_attn_func(one, one, one), flash_attn_func(*[one.contiguous()] * 3))


def test_packed_forms() -> None:
    qkv = torch.randn(2, 15, 3, 4, 16, requires_grad=True)
    q, k, v = qkv.unbind(2)
    want = flash_attn_func(q, k, v, causal=True)
    got = fa.flash_attn_qkvpacked_func(qkv, causal=True)
    assert torch.equal(got, want)
    got.sum().backward()
    assert qkv.grad.shape == qkv.shape
    kv = qkv.detach()[:, :, 1:]
    assert torch.equal(fa.flash_attn_kvpacked_func(q.detach(), kv, causal=True), want)
    with pytest.raises(
        attnd.InvalidArgument, match=r"qkv: got shape \[2, 15, 2, 4, 16\], expected 3"
    ):
        fa.flash_attn_qkvpacked_func(kv)


def test_dropout_has_the_right_mean_and_no_effect_at_zero() -> None:
    q, k = torch.randn(1, 64, 4, 16), torch.randn(1, 128, 4, 16)
    v = torch.ones(1, 128, 4, 16)
    mean = torch.stack([flash_attn_func(q, k, v, dropout_p=0.25) for _ in range(20)]).mean()
    assert abs(float(mean) - 1) < 0.02
    assert torch.equal(flash_attn_func(q, k, v, dropout_p=0.0), flash_attn_func(q, k, v))


def test_a_batch_beyond_one_message_goes_in_parts(
    real_client: attnd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = torch.randn(5, 700, 4, 64)
    k = torch.randn(5, 90, 4, 64)
    cuts_q, cuts_k = [0, 2000, 2000, 2800, 3500], [0, 10, 200, 400, 450]
    options = attnd.Options(
        causal=True, dropout=attnd.Dropout(probability=0.2, seed=3, subsequence=2**32 - 2)
    )
    ragged = (q.flatten(0, 1), *[k.flatten(0, 1)] * 2)

    def both() -> list[torch.Tensor]:
        return [
            *attention(q, k, k, options=options),
            *attention(*ragged, options=options, cu_seqlens_q=cuts_q, cu_seqlens_k=cuts_k),
        ]

    want = both()
    calls = []
    send = real_client.call_with_tensors
    monkeypatch.setattr(
        real_client, "call_with_tensors", lambda *a, **k: (calls.append(1), send(*a, **k))[1]
    )
    limit = real_client.capabilities().max_message_bytes
    real_client.capabilities().max_message_bytes = (16 << 20) + 3 * (1 << 20)
    try:
        got = both()
    finally:
        real_client.capabilities().max_message_bytes = limit
    assert len(calls) == 5 + 3
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_asyncio_by_threads() -> None:
    q = torch.randn(1, 16, 2, 16)
    want = flash_attn_func(q, q, q)

    async def many() -> list[torch.Tensor]:
        return await asyncio.gather(
            *(asyncio.to_thread(flash_attn_func, q, q, q) for _ in range(8))
        )

    assert all(torch.equal(out, want) for out in asyncio.run(many()))


def test_inference_does_not_import_the_compiler(real_client: attnd.Client) -> None:
    code = (
        "import sys, torch; from flash_attention_amd import flash_attn_func\n"
        "q = torch.ones(1, 4, 2, 32); flash_attn_func(q, q, q)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert flash_attn_func(q.requires_grad_(), q, q).requires_grad"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "ATTND_ADDRESS": real_client.address},
        timeout=120,
        check=True,
    )


class FlashAttentionLayer(nn.Module):
    """The layer that the guide shows, used as it shows it."""

    def __init__(self, embed_dim, num_heads, dropout=0.0):
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(embed_dim, embed_dim) for _ in range(4)
        )
        self.flash_attn = FlashAttention(attention_dropout=dropout)

    def forward(self, x, causal=False):
        batch_size, seq_len, _ = x.shape
        split = (batch_size, seq_len, self.num_heads, self.head_dim)
        q, k, v = (p(x).reshape(split) for p in (self.q_proj, self.k_proj, self.v_proj))
        attn_output = self.flash_attn(q, k, v, causal=causal)
        return self.out_proj(attn_output.reshape(batch_size, seq_len, self.embed_dim))


def test_the_guides_layer_runs_and_trains() -> None:
    layer = FlashAttentionLayer(64, 4, dropout=0.1)
    x = torch.randn(2, 33, 64)
    target = torch.randn(2, 33, 64)
    assert layer(x).shape == x.shape
    # Dropout is of training alone.
    assert not torch.equal(layer(x, causal=True), layer(x, causal=True))
    layer.eval()
    assert torch.equal(layer(x, causal=True), layer(x, causal=True))
    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(8):
        loss = (layer(x, causal=True) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_module_options() -> None:
    q = torch.randn(1, 12, 2, 16)
    module = FlashAttention(softmax_scale=0.2, causal=True)
    assert list(module.parameters()) == []
    assert_close(module(q, q, q), q, q, q, causal=True, softmax_scale=0.2)
    assert_close(module(q, q, q, causal=False), q, q, q, softmax_scale=0.2)
    assert "causal=True" in repr(module)
    with pytest.raises(
        attnd.InvalidArgument, match=r"attention_dropout: got 1\.0, expected \[0, 1\)"
    ):
        FlashAttention(attention_dropout=1.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": "x"}, TypeError, "q: got a builtins.str, expected a torch tensor"),
        ({"k": torch.zeros(2, 9, 4, 16).numpy()}, TypeError, "k: got a numpy.ndarray"),
        ({"q": torch.zeros(2, 5, 4, 16).double()}, None, "q: got dtype torch.float64, expected"),
        (
            {"k": torch.zeros(2, 9, 4, 16).half()},
            None,
            "k: got dtype torch.float16, expected torch.float32",
        ),
        (
            {"q": torch.zeros(5, 4, 16)},
            None,
            r"q: got shape \[5, 4, 16\] of 3 dimensions, expected 4",
        ),
        (
            {"k": torch.zeros(3, 9, 4, 16)},
            None,
            r"k: got shape \[3, 9, 4, 16\], expected 2 batches",
        ),
        (
            {"k": torch.zeros(2, 9, 4, 8)},
            None,
            r"k: got shape \[2, 9, 4, 8\], expected head_dim 16",
        ),
        (
            {"v": torch.zeros(2, 8, 4, 16)},
            None,
            r"v: got shape \[2, 8, 4, 16\], expected \[2, 9, 4",
        ),
        (
            {"k": torch.zeros(2, 9, 3, 16), "v": torch.zeros(2, 9, 3, 16)},
            None,
            "k: got 3 heads, expected a divisor of q's 4",
        ),
        (
            {"q": torch.zeros(2, 0, 4, 16)},
            None,
            r"q: got shape \[2, 0, 4, 16\], expected no size below 1",
        ),
        ({"k": torch.zeros(2, 9, 4, 16, device="meta")}, None, "k: got a tensor of device meta"),
        ({"dropout_p": 1.0}, None, r"dropout_p: got 1\.0, expected \[0, 1\)"),
        ({"dropout_p": -0.1}, None, r"dropout_p: got -0\.1, expected \[0, 1\)"),
        ({"dropout_p": float("nan")}, None, "dropout_p: got nan"),
        ({"dropout_p": True}, TypeError, "dropout_p: got True, expected a number"),
        ({"causal": 0.1}, TypeError, "causal: got 0.1, expected a bool"),
        ({"softmax_scale": "1"}, TypeError, "softmax_scale: got '1', expected a number"),
        ({"softmax_scale": float("inf")}, None, "softmax_scale: got inf, expected a finite"),
        ({"softcap": -1.0}, None, r"softcap: got -1\.0, expected at least 0"),
        ({"window_size": 5}, TypeError, r"window_size: got 5, expected a pair"),
        ({"window_size": (-2, 0)}, None, "window_size: got -2, expected -1 to"),
        ({"block_size": 0}, None, "block_size: got 0, expected 1 to 65536"),
        ({"block_size": 1.5}, TypeError, "block_size: got 1.5, expected an integer"),
        ({"alibi_slopes": torch.zeros(3)}, None, r"alibi_slopes: got shape \[3\], expected \[4\]"),
        (
            {"alibi_slopes": torch.zeros(4).half()},
            None,
            "alibi_slopes: got torch.float16, expected",
        ),
    ],
)
def test_bad_input(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "q": torch.zeros(2, 5, 4, 16),
        "k": torch.zeros(2, 9, 4, 16),
        "v": torch.zeros(2, 9, 4, 16),
    }
    with pytest.raises(error or attnd.InvalidArgument, match=message):
        flash_attn_func(**{**arguments, **change})


def test_tensors_of_two_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # There is one device here: a tensor that says it is elsewhere.
    class Elsewhere(torch.Tensor):
        device = torch.device("cuda:1")

    q = torch.zeros(1, 4, 2, 16)
    with pytest.raises(attnd.InvalidArgument, match="k: got device cuda:1, expected cpu like q"):
        flash_attn_func(q, q.as_subclass(Elsewhere), q)


def test_no_daemon_is_a_clear_error() -> None:
    q = torch.zeros(1, 4, 2, 16)
    with (
        attnd.Client("unix:/nowhere/at/all", timeout_s=0.5) as client,
        pytest.raises(attnd.Unavailable, match="unix:/nowhere/at/all"),
    ):
        flash_attn_func(q, q, q, client=client)


def test_the_verify_command(real_client: attnd.Client) -> None:
    good = subprocess.run(
        [sys.executable, "-m", "flash_attention_amd", "--length=64"],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "ATTND_ADDRESS": real_client.address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines()[-1] == "Flash Attention is working!"
    assert good.stdout.count(": ok") == 6


def test_the_verify_command_says_that_there_is_no_daemon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flash_attention_amd import __main__ as verify

    with attnd.Client("unix:/nowhere/at/all", timeout_s=0.5) as nobody:
        monkeypatch.setattr(attnd, "connect", lambda: nobody)
        monkeypatch.setattr(sys, "argv", ["verify"])
        assert verify.main() == 1
    printed = capsys.readouterr()
    assert "working" not in printed.out
    assert "Flash Attention does not work: GetCapabilities: UNAVAILABLE" in printed.err


def test_the_verify_command_finds_wrong_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flash_attention_amd import __main__ as verify

    monkeypatch.setattr(sys, "argv", ["verify", "--length=32"])
    monkeypatch.setattr(verify, "flash_attn_func", lambda q, k, v, causal: flash_attn_func(q, k, v))
    assert verify.main() == 1
    assert "working" not in capsys.readouterr().out


def test_memory_fraction_is_of_the_start() -> None:
    with pytest.raises(attnd.InvalidArgument, match=r"memory_fraction: got 2, expected 0\.05"):
        fa.set_memory_fraction(2)
    if "ATTND_ADDRESS" not in os.environ:
        with pytest.raises(attnd.FailedPrecondition, match=r"memory_fraction: got 0\.9 while"):
            fa.set_memory_fraction(0.9)
