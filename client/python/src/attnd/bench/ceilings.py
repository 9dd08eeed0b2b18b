# SPDX-License-Identifier: Apache-2.0
"""What the machine can do, sampled in the same rounds as what is compared with it.

    FLOP/s    the most of: a product of two 2048^2 (GPU: 8192^2) matrices in PyTorch, in the case's
              dtype; on a CPU also multiply-adds in registers, by tests/bench/ceilings.cc, where
              `attention_bench` is built. Of fp32 also a sixth of the same in bf16, since three
              parts of bf16 make an fp32 number and six products of parts its product.
    bytes/s   of memory that no cache holds, the most of: a sum over 1 GiB in PyTorch; on a GPU also
              a copy, bytes read and written; on a CPU also the reads of ceilings.cc.

The products count 2 n^3 FLOPs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

from attnd.bench.cases import Case
from attnd.bench.peers import DTYPES, seconds_of

_READ_BYTES = 1 << 30
# The smallest cases of `attention_bench --worker`, whose "ceiling" is wanted, not the case.
_WORKER_CASES = {
    "f32": Case("prefill", "f32", 1, 1, 1, 64, 16, False),
    "bf16": Case("prefill", "bf16", 1, 1, 1, 64, 16, False),
    "read": Case("decode", "bf16", 1, 1, 1, 64, 16, True),
}


def worker_program() -> Path | None:
    """`attention_bench` of $ATTND_BENCH_BIN_DIR, or of the source tree's build; None: not built."""
    folder = os.environ.get("ATTND_BENCH_BIN_DIR")
    root = Path(__file__).resolve().parents[5]
    path = Path(folder) if folder else root / "build" / "release" / "bench" / "bin"
    program = path / "attention_bench"
    return program if program.is_file() else None


class Worker:
    """`attention_bench --worker`, the CPU kernels in process: a line out, a line in."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [str(program), "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._process.pid

    def case(self, threads: int, case: Case) -> list[str]:
        """Verifies a case and keeps it for what follows: error, FLOPs, bytes, words of its name.

        Raises:
            RuntimeError: its output is wrong.
        """
        return self.ask(
            f"case {threads} {case.phase} {case.dtype} {case.batch} {case.heads} {case.kv_heads} "
            f"{case.dim} {case.tokens} {int(case.causal and case.phase == 'prefill')}"
        )

    def sample(self) -> float:
        """The ceiling of the case, FLOP/s or bytes/s, now."""
        return float(self.ask("ceiling")[0])

    def close(self) -> None:
        """Ends the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, line: str) -> list[str]:
        """The words of the answer to `line`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"attention_bench gave up on {line!r}")
        return answer.split()


class Ceilings:
    """Samples on demand; the tensors and programs that it takes are made by the first."""

    def __init__(self, device: str, threads: int) -> None:
        self._device, self._threads = device, threads
        self._program = worker_program() if device == "cpu" else None
        self._workers: dict[str, Worker] = {}
        self._matrices: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._memory: torch.Tensor | None = None
        # {what it is: all samples}, for the head of the results.
        self._seen: dict[str, list[float]] = {}

    def sample(self, case: Case) -> float:
        """FLOP/s for a prefill, bytes/s for a decode."""
        if case.phase == "decode":
            rates = [self._keep(f"{kind}, PyTorch", rate) for kind, rate in self._memory_rates()]
            return max(rates + self._registers("read"))
        rates = self._flops(case.dtype)
        if case.dtype == "f32":
            rates += [rate / 6 for rate in self._flops("bf16")]
        return max(rates)

    def summary(self) -> dict[str, float]:
        """Medians of all that was sampled: GFLOP/s and GB/s."""
        return {name: round(statistics.median(v) / 1e9, 2) for name, v in self._seen.items()}

    def release(self) -> None:
        """Ends the programs and frees the tensors; the next sample makes them again."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self._matrices.clear()
        self._memory = None

    def _flops(self, dtype: str) -> list[float]:
        product = self._keep(f"{dtype} product, PyTorch", self._product(dtype))
        return [product, *self._registers(dtype)]

    def _registers(self, kind: str) -> list[float]:
        if self._program is None or kind not in _WORKER_CASES:
            return []
        if kind not in self._workers:
            self._workers[kind] = Worker(self._program)
            self._workers[kind].case(self._threads, _WORKER_CASES[kind])
        what = "read" if kind == "read" else f"{kind} registers"
        return [self._keep(f"{what}, ceilings.cc", self._workers[kind].sample())]

    def _product(self, dtype: str) -> float:
        n = 8192 if self._device == "cuda" else 2048
        if dtype not in self._matrices:
            a = torch.randn(n, n, device=self._device).to(DTYPES[dtype])
            self._matrices[dtype] = (a, torch.empty_like(a))
            torch.mm(a, a, out=self._matrices[dtype][1])
        a, out = self._matrices[dtype]
        return 2 * n**3 / seconds_of(lambda: torch.mm(a, a, out=out), self._device)

    def _memory_rates(self) -> Iterator[tuple[str, float]]:
        if self._memory is None:
            # Not zeros: pages that were never written are all one page.
            self._memory = torch.ones(_READ_BYTES // 4, device=self._device)
            self._memory.sum()
        memory = self._memory
        yield "read", _READ_BYTES / seconds_of(lambda: memory.sum(), self._device)
        if self._device == "cuda":
            half = memory.numel() // 2
            copied = seconds_of(lambda: memory[:half].copy_(memory[half:]), self._device)
            yield "copy", _READ_BYTES / copied

    def _keep(self, name: str, rate: float) -> float:
        self._seen.setdefault(name, []).append(rate)
        return rate
