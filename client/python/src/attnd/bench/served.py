# SPDX-License-Identifier: Apache-2.0
"""Attention through the daemon, from Python tensors to Python tensors, with its parts timed.

A call's time has five parts, which add up to it:

    stage_in, queue, kernel, stage_out   inside the daemon, as its answer says
    transport                            the rest: the client's packing and unpacking, gRPC, socket;
                                         of GPU tensors also the copies from its memory and back

`overhead` is the call without `kernel`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType

import torch

import attnd
from attnd.bench.cases import Case
from attnd.bench.peers import DTYPES, Inputs

# On a GPU PyTorch wants the rest; decode's longest contexts take a quarter of a GiB.
_CUDA_POOL_BYTES = 4 << 30
PARTS = ("stage_in", "queue", "kernel", "stage_out", "transport")
# Tokens of one request that fills a sequence: within the daemon's limits whatever the geometry.
_FILL_TOKENS = 2048


def fresh_daemon(device: str, threads: int) -> attnd.EmbeddedDaemon:
    """A daemon of the benchmark's own, on "cpu" or "cuda", with as many threads as PyTorch has.

    Raises:
        DaemonNotStarted: there is no `attnd` program, or it does not serve that device.
    """
    if device == "cuda":
        return attnd.EmbeddedDaemon(
            num_threads=threads, backend="hip", memory_bytes=_CUDA_POOL_BYTES
        )
    return attnd.EmbeddedDaemon(num_threads=threads, backend="cpu")


def parts_of(call_s: float, timing: attnd.Timing) -> dict[str, float]:
    """{part: seconds}, with "call" for all of it and "overhead" for all but the kernel."""
    kernel_s = timing.kernel_ns * 1e-9
    return {
        "call": call_s,
        "overhead": call_s - kernel_s,
        "stage_in": timing.stage_in_ns * 1e-9,
        "queue": timing.queue_ns * 1e-9,
        "kernel": kernel_s,
        "stage_out": timing.stage_out_ns * 1e-9,
        "transport": call_s - timing.total_ns * 1e-9,
    }


class Prefill:
    """The stateless call on dense [B, S, H, D] tensors of any device."""

    def __init__(self, client: attnd.Client, case: Case, inputs: Inputs) -> None:
        self._client, self._inputs = client, inputs
        self._options = attnd.Options(causal=case.causal)

    def output(self) -> torch.Tensor:
        """[B, S, H, D] on the CPU.

        A call whose values are all NaN goes first, through the buffers that the next one uses: what
        is not computed anew shows.
        """
        poison = torch.full_like(self._inputs.v, float("nan"))
        self._call(poison)
        return self._call(self._inputs.v)[0]

    def run(self) -> Mapping[str, float]:
        """One call; the result is back on the device of q when the clock stops."""
        start = time.perf_counter()
        out, timing = self._call(self._inputs.v)
        if self._inputs.q.device.type != "cpu":
            out.to(self._inputs.q.device)
            torch.cuda.synchronize()
        return parts_of(time.perf_counter() - start, timing)

    def _call(self, v: torch.Tensor) -> tuple[torch.Tensor, attnd.Timing]:
        q, k = self._inputs.q, self._inputs.k
        result = self._client.flash_attention(q, k, v, options=self._options)
        return result.out, result.timing


class Decode:
    """A step of `batch` sequences of one layer, whose keys and values are the daemon's pages.

    Every run writes the token at the last position anew and attends: the context stays as long.
    """

    def __init__(self, client: attnd.Client, case: Case, inputs: Inputs) -> None:
        self._client, self._case, self._inputs = client, case, inputs
        self._cache = client.open_cache(
            f"bench-{case.dtype}-{case.batch}x{case.tokens}",
            num_layers=1,
            num_query_heads=case.heads,
            num_kv_heads=case.kv_heads,
            head_dim=case.dim,
            dtype=DTYPES[case.dtype],
        )
        self._session = client.open_session(label="attnd.bench")
        self._sequences = [self._session.create_sequence(self._cache) for _ in range(case.batch)]
        last = case.tokens - 1
        for start in range(0, last, _FILL_TOKENS):
            self._write(start, min(start + _FILL_TOKENS, last))
        # What a step brings, as a model on the CPU or on the device would.
        self._q, self._k, self._v = (x[:, -1:] for x in (inputs.q, inputs.k, inputs.v))

    def _write(self, start: int, stop: int) -> None:
        for sequence, k, v in zip(self._sequences, self._inputs.k, self._inputs.v, strict=True):
            part = {"k": k[start:stop], "v": v[start:stop]}
            self._session.attend([attnd.Item(sequence=sequence, layer=0, start=start, **part)])

    def output(self) -> torch.Tensor:
        """[B, 1, H, D] on the CPU, after a step whose value is NaN has been through the buffers."""
        self._step(torch.full_like(self._v, float("nan")))
        out, _ = self._step(self._v)
        return torch.stack(out)

    def run(self) -> Mapping[str, float]:
        """One step; the result is back on the device of q when the clock stops."""
        start = time.perf_counter()
        out, timing = self._step(self._v)
        if self._q.device.type != "cpu":
            torch.stack(out).to(self._q.device)
            torch.cuda.synchronize()
        return parts_of(time.perf_counter() - start, timing)

    def _step(self, values: torch.Tensor) -> tuple[list[torch.Tensor], attnd.Timing]:
        items = [
            attnd.Item(sequence=sequence, layer=0, start=self._case.tokens - 1, q=q, k=k, v=v)
            for sequence, q, k, v in zip(self._sequences, self._q, self._k, values, strict=True)
        ]
        result = self._session.attend(items)
        return [item.out for item in result], result.timing

    def __enter__(self) -> Decode:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()
        self._client.close_cache(self._cache)
