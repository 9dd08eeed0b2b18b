# SPDX-License-Identifier: Apache-2.0
"""Every output against fp64 before it is timed: a fast wrong answer is not a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from attnd.bench.cases import Case
from attnd.bench.peers import Inputs
from attnd.bench.report import Report

# Relative L2 against fp64 beyond which an output is wrong, not only rounded: ours, the peers'.
OURS_BOUND = {"f32": 1e-6, "f16": 1e-3, "bf16": 6e-3}
PEER_BOUND = {"f32": 1e-5, "f16": 2e-3, "bf16": 2e-2}
_CHECKED_ROWS = 64


class WrongOutput(RuntimeError):
    """Ours is further from fp64 than rounding explains; it is not timed."""


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


def verify(
    case: Case,
    inputs: Inputs,
    output: Callable[[], torch.Tensor],
    peers: Mapping[str, Callable[[], torch.Tensor]],
    names: Mapping[str, str],
    report: Report,
) -> dict[str, Callable[[], torch.Tensor]]:
    """Compares ours and each peer with fp64, and ours with each right peer in full.

    Args:
        output: ours, [B, S, H, D]; peers return [B, H, S, D].
        names: of the peers, for the rows of errors.

    Returns:
        The peers that run. One that does not, or is wrong, is a failure in `report`.

    Raises:
        WrongOutput: ours is wrong.
    """
    rows = checked_rows(inputs.q.shape[1])
    want = truth(case, inputs, rows)
    out = output()
    ours, usable = Error.of(out[:, rows], want), dict[str, Callable[[], torch.Tensor]]()
    if not ours.relative_l2 <= OURS_BOUND[case.dtype]:
        raise WrongOutput(
            f"attnd is off by {ours.relative_l2:.2e}, at most {OURS_BOUND[case.dtype]:.0e} is right"
        )
    for peer, run in peers.items():
        try:
            theirs = run().transpose(1, 2)
        except (RuntimeError, MemoryError) as broken:
            report.fail(f"{case}, {names[peer]}", broken)
            continue
        usable[peer] = run
        error = Error.of(theirs[:, rows.to(theirs.device)], want)
        _keep(case, ours, error, names[peer], report)
        if not error.relative_l2 <= PEER_BOUND[case.dtype]:
            report.fail(f"{case}, {names[peer]}", f"off by {error.relative_l2:.2e}")
            continue
        full = Error.of(out, theirs.to(out.device).double())
        if not full.relative_l2 <= OURS_BOUND[case.dtype] + PEER_BOUND[case.dtype]:
            raise WrongOutput(f"attnd and {names[peer]} differ by {full.relative_l2:.2e}")
    return usable


def _keep(case: Case, ours: Error, theirs: Error, name: str, report: Report) -> None:
    for metric, mine, peer in (
        ("relative_l2_error", ours.relative_l2, theirs.relative_l2),
        ("max_abs_error", ours.max_abs, theirs.max_abs),
    ):
        ratio = peer / mine if mine else None
        report.add(case, metric, "1", mine, peer=peer, peer_name=name, ratio=ratio)
