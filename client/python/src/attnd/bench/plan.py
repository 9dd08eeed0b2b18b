# SPDX-License-Identifier: Apache-2.0
"""Which cases a run measures, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from attnd.bench.cases import Case


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        device: "cpu" or "cuda".
        dtypes: of the speed-up tables.
        tokens, decode_tokens, memory_tokens: lengths of each group; empty: not that group.
        budget_s: for the rounds of a case; at least `least_rounds` are made.
        passes: over all that is timed; see runs.py.
        threads: of PyTorch and of the daemons that the benchmark starts.
    """

    device: str
    dtypes: tuple[str, ...]
    tokens: tuple[int, ...]
    decode_tokens: tuple[int, ...]
    memory_tokens: tuple[int, ...]
    budget_s: float
    least_rounds: int
    passes: int
    threads: int

    def prefills(self) -> list[Case]:
        """Of the two speed-up tables."""
        return [
            Case.prefill(dtype, tokens, causal)
            for dtype in self.dtypes
            for causal in (False, True)
            for tokens in self.tokens
        ]

    def decodes(self) -> list[Case]:
        """Steps from the page cache, in bf16."""
        return [Case.decode("bf16", tokens) for tokens in self.decode_tokens]

    def memories(self) -> list[Case]:
        """Of the memory table, in fp32."""
        return [Case.prefill("f32", tokens, causal=False) for tokens in self.memory_tokens]
