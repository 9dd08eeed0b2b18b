# SPDX-License-Identifier: Apache-2.0
"""Attention in PyTorch: the peers, fresh inputs, and how long a run takes.

Peers get contiguous [B, H, S, D], the layout that suits them, and are timed on tensors that are
already on their device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnd.bench.cases import Case

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
STANDARD = "standard attention (matmul, mask, softmax, matmul)"


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


def seconds_of(run: Callable[[], object], device: str) -> float:
    """How long `run` takes: on the CPU by the clock; on a GPU by events, the GPU's time alone."""
    if device != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    events: Any = torch.cuda  # Typed in parts only.
    before, after = (events.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # Keeps the GPU busy for about half a millisecond, while the host queues what is measured.
    events._sleep(1_000_000)
    before.record()
    run()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) * 1e-3
