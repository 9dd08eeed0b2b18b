# SPDX-License-Identifier: Apache-2.0
"""Attention in PyTorch: the peers, fresh inputs, the fp64 truth, and how long a run takes.

Peers get contiguous [B, H, S, D], the layout that suits them, and are timed on tensors that are
already on their device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnd.bench.cases import Case

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Relative L2 against fp64 beyond which an output is wrong, not only rounded: ours, the peers'.
OURS_BOUND = {"f32": 1e-6, "f16": 1e-3, "bf16": 6e-3}
PEER_BOUND = {"f32": 1e-5, "f16": 2e-3, "bf16": 2e-2}
STANDARD = "standard attention (matmul, mask, softmax, matmul)"
_CHECKED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Inputs:
    """q, k and v as a caller of attnd holds them, [B, S, H, D] on the device, and the peers'."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    @classmethod
    def fresh(cls, case: Case, device: str) -> Inputs:
        """N(0, 1), drawn on the CPU in fp32, so that a seed means the same on every machine."""
        queries = 1 if case.phase == "decode" else case.tokens
        sizes = ((queries, case.heads), (case.tokens, case.kv_heads), (case.tokens, case.kv_heads))
        return cls(
            *(
                torch.randn(case.batch, n, heads, case.dim).to(DTYPES[case.dtype]).to(device)
                for n, heads in sizes
            )
        )

    def heads_first(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Contiguous [B, H, S, D]."""
        q, k, v = (x.transpose(1, 2).contiguous() for x in (self.q, self.k, self.v))
        return q, k, v


def standard_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D)) v with every score stored; q, k, v and the result [B, H, S, D]."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.softmax(scores, -1) @ v


def sdpa_backend(dtype: str, device: str) -> SDPBackend:
    """PyTorch's flash kernel where it has one: on GPUs not for fp32, which gets EFFICIENT."""
    if device == "cuda" and dtype == "f32":
        return SDPBackend.EFFICIENT_ATTENTION
    return SDPBackend.FLASH_ATTENTION


def sdpa_name(dtype: str, device: str) -> str:
    """What rows call the peer."""
    backend = sdpa_backend(dtype, device).name.removesuffix("_ATTENTION")
    return f"PyTorch {torch.__version__} scaled_dot_product_attention, {backend}"


def sdpa_context(dtype: str, device: str) -> AbstractContextManager[None]:
    """Lets scaled_dot_product_attention use that kernel alone, or fail."""
    context: AbstractContextManager[None] = sdpa_kernel(sdpa_backend(dtype, device))
    return context


def prefill_peers(case: Case, inputs: Inputs) -> dict[str, Callable[[], torch.Tensor]]:
    """Functions of no argument that return [B, H, S, D]."""
    q, k, v = inputs.heads_first()
    return {
        "standard": lambda: standard_attention(q, k, v, case.causal),
        "sdpa": lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=case.causal),
    }


def decode_peers(case: Case, inputs: Inputs) -> dict[str, Callable[[], torch.Tensor]]:
    """Two formulations of one result, [B, H, 1, D]: grouped heads, and a KV head's as rows."""
    q, k, v = inputs.heads_first()
    rows = q.view(case.batch, case.kv_heads, case.heads // case.kv_heads, case.dim)
    return {
        "grouped": lambda: functional.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        "packed": lambda: functional.scaled_dot_product_attention(rows, k, v).view_as(q),
    }


def checked_rows(queries: int) -> torch.Tensor:
    """Which queries are compared with fp64: all of few, else the first, the last, random ones."""
    if queries <= _CHECKED_ROWS:
        return torch.arange(queries)
    middle = torch.randperm(queries - 2)[: _CHECKED_ROWS - 2] + 1
    return torch.cat([torch.tensor([0]), middle.sort().values, torch.tensor([queries - 1])])


def truth(case: Case, inputs: Inputs, rows: torch.Tensor) -> torch.Tensor:
    """fp64 attention of these queries, [B, len(rows), H, D], every batch entry and head."""
    rows = rows.to(inputs.q.device)
    position = rows + (case.tokens - inputs.q.shape[1])
    hidden = torch.arange(case.tokens, device=rows.device)[None, :] > position[:, None]
    group = case.heads // case.kv_heads
    out = []
    for q, k, v in zip(inputs.q[:, rows], inputs.k, inputs.v, strict=True):  # Entry by entry.
        k, v = (x.transpose(0, 1).double().repeat_interleave(group, 0) for x in (k, v))
        scores = q.transpose(0, 1).double() @ k.transpose(-1, -2) * case.dim**-0.5
        if case.causal:
            scores = scores.masked_fill(hidden, float("-inf"))
        out.append((torch.softmax(scores, -1) @ v).transpose(0, 1))
    return torch.stack(out)


@dataclass(frozen=True, slots=True)
class Error:
    """Of an output against fp64. A NaN in the output makes both NaN."""

    relative_l2: float
    max_abs: float

    @classmethod
    def of(cls, out: torch.Tensor, want: torch.Tensor) -> Error:
        """Both of the same shape."""
        if out.shape != want.shape:
            raise ValueError(f"out: got shape {list(out.shape)}, expected {list(want.shape)}")
        difference = out.to(want.device).double() - want
        return cls(float(difference.norm() / want.norm()), float(difference.abs().max()))


def seconds_of(run: Callable[[], object], device: str) -> float:
    """How long `run` takes: on the CPU by the clock; on a GPU by events, the GPU's time alone."""
    if device != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # Keeps the GPU busy for about half a millisecond, while the host queues what is measured.
    torch.cuda._sleep(1_000_000)
    before.record()
    run()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) * 1e-3
