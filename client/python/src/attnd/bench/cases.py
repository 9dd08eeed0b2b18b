# SPDX-License-Identifier: Apache-2.0
"""What is measured: shapes, the formulas that count their work, and the guide's claims.

    case = Case.prefill("f32", tokens=1024, causal=True)
    str(case)                # "prefill f32 b=8 h=8/8 d=64 n=1024 causal"
    Case.parse(str(case))    # the same case: rows of a JSON file name theirs so

Formulas, N tokens, B batch entries, H query heads, Hkv KV heads, D head_dim, e bytes an element:

    pairs   of a query and a key that it sees: N^2; causal N (N + 1) / 2; decode N
    FLOPs   4 B H D pairs: two for each multiply-add, once for the scores, once for the values
    bytes   decode: 2 B N Hkv D e, keys and values read once
    tensors 4 B N H D e: q, k, v and the output
    scores  B H N^2 e: one matrix of all scores
    standard attention's memory at its highest: tensors + 2 scores, the scores and their softmax
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ELEMENT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
_NAME = re.compile(
    r"(?P<phase>prefill|decode) (?P<dtype>\w+) b=(?P<batch>\d+) h=(?P<heads>\d+)/(?P<kv_heads>\d+) "
    r"d=(?P<dim>\d+) n=(?P<tokens>\d+)(?P<dense> dense)?(?P<causal> causal)?"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One shape of one phase.

    Attributes:
        phase: "prefill": as many queries as keys; "decode": one query, `tokens` keys.
        dtype: "f32", "f16" or "bf16", of all tensors.
        batch, heads, kv_heads, dim, tokens: counts; heads is a multiple of kv_heads.
        causal: key j is seen by query i where j <= i; of decode always, where it hides nothing.
    """

    phase: str
    dtype: str
    batch: int
    heads: int
    kv_heads: int
    dim: int
    tokens: int
    causal: bool

    @classmethod
    def prefill(cls, dtype: str, tokens: int, causal: bool) -> Case:
        """A case of the guide's tables: batch 8, 8 heads, head_dim 64."""
        return cls("prefill", dtype, 8, 8, 8, 64, tokens, causal)

    @classmethod
    def decode(cls, dtype: str, tokens: int) -> Case:
        """One new token for each of 4 sequences, 32 query and 8 KV heads, head_dim 128."""
        return cls("decode", dtype, 4, 32, 8, 128, tokens, True)

    @classmethod
    def parse(cls, name: str) -> Case | None:
        """The case that a row's `case` names; None for a name of another form."""
        match = _NAME.match(name)
        if match is None or match["dtype"] not in ELEMENT_BYTES:
            return None
        counts = {key: int(match[key]) for key in ("batch", "heads", "kv_heads", "dim", "tokens")}
        causal = bool(match["causal"]) or match["phase"] == "decode"
        return cls(phase=match["phase"], dtype=match["dtype"], causal=causal, **counts)

    def __str__(self) -> str:
        causal = " causal" if self.causal and self.phase == "prefill" else ""
        return (
            f"{self.phase} {self.dtype} b={self.batch} h={self.heads}/{self.kv_heads} "
            f"d={self.dim} n={self.tokens}{causal}"
        )

    @property
    def pairs(self) -> int:
        """Of a query and a key that it sees, in one head of one batch entry."""
        if self.phase == "decode":
            return self.tokens
        return self.tokens * (self.tokens + 1) // 2 if self.causal else self.tokens**2

    @property
    def flops(self) -> int:
        """That the result needs: 4 B H D pairs."""
        return 4 * self.batch * self.heads * self.dim * self.pairs

    @property
    def kv_bytes(self) -> int:
        """Keys and values, once."""
        return 2 * self.batch * self.tokens * self.kv_heads * self.dim * ELEMENT_BYTES[self.dtype]

    @property
    def tensor_bytes(self) -> int:
        """q, k, v and the output of a prefill with as many KV heads as query heads."""
        return 4 * self.batch * self.tokens * self.heads * self.dim * ELEMENT_BYTES[self.dtype]

    @property
    def standard_bytes(self) -> int:
        """Of standard attention at its highest: the tensors, the scores and their softmax."""
        return self.tensor_bytes + 2 * self.scores_bytes

    @property
    def scores_bytes(self) -> int:
        """One matrix of the scores of all pairs, seen or not."""
        return self.batch * self.heads * self.tokens**2 * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of the guide's speed-up tables, for an RX 7900 XTX."""

    standard_ms: float
    flash_ms: float
    speedup: float


# The guide's numbers are claims, set beside what is measured; {causal: {tokens: row}}.
GUIDE_SPEEDUPS = {
    False: {
        128: Claim(0.59, 0.39, 1.5),
        256: Claim(1.43, 0.62, 2.3),
        512: Claim(4.54, 1.42, 3.2),
        1024: Claim(16.45, 3.50, 4.7),
        2048: Claim(61.02, 9.00, 6.8),
    },
    True: {
        128: Claim(0.68, 0.39, 1.7),
        256: Claim(1.64, 0.62, 2.6),
        512: Claim(5.22, 1.42, 3.7),
        1024: Claim(18.90, 3.50, 5.5),
        2048: Claim(70.38, 9.00, 8.2),
    },
}
# {tokens: (GB of standard attention, GB of flash attention)}
GUIDE_MEMORY_GB = {1024: (4.2, 1.1), 2048: (16.8, 2.3), 4096: (67.1, 4.7)}


def claimed_saving(tokens: int) -> float | None:
    """The share of standard attention's memory that the guide says is saved; None: no claim."""
    if tokens not in GUIDE_MEMORY_GB:
        return None
    standard, flash = GUIDE_MEMORY_GB[tokens]
    return round(1 - flash / standard, 2)


GUIDE_TOKENS = tuple(GUIDE_SPEEDUPS[False])
MEMORY_TOKENS = tuple(GUIDE_MEMORY_GB)
DECODE_TOKENS = (1024, 2048, 4096, 8192, 16384)
GROUPS = ("speedup", "decode", "memory")
