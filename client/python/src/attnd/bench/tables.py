# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown: on the terminal after a run, and for the page that shows them."""

from __future__ import annotations

from collections.abc import Iterable

from attnd.bench.cases import GUIDE_MEMORY_GB, GUIDE_SPEEDUPS, Case
from attnd.bench.report import Results

_PROCESSES = ("process", "daemon")
_PARTS = ("stage_in", "queue", "stage_out", "transport")


def everything(results: Results) -> str:
    """All tables that there are rows for."""
    head = results.head
    lines = [
        f"{head.get('hardware', '')}; {head.get('daemon', '')}; PyTorch {head.get('torch', '')}, "
        f"{head.get('threads', '?')} threads",
        f"`{head.get('command', '')}`; {head.get('date', '')}; commit {head.get('commit', '')}",
    ]
    blocks = ["  \n".join(lines)]
    prefills = [case for case in results.cases("kernel_time") if case.phase == "prefill"]
    for dtype in dict.fromkeys(case.dtype for case in prefills):
        for causal in (False, True):
            chosen = [case for case in prefills if (case.dtype, case.causal) == (dtype, causal)]
            if chosen:
                kind = "causal" if causal else "not causal"
                title = f"{dtype}, {kind}, batch 8, 8 heads, head_dim 64"
                blocks.append(f"### Speed-up over standard attention: {title}")
                blocks.append(speedups(results, chosen))
                blocks.append(f"### Rates and errors: {title}")
                blocks.append(rates(results, chosen))
                blocks.append(f"### Where the time of a whole call goes, ms: {title}")
                blocks.append(overhead(results, chosen))
    decodes = [case for case in results.cases("kernel_time") if case.phase == "decode"]
    if decodes:
        title = "bf16, 4 sequences of 32 query and 8 KV heads, head_dim 128"
        blocks.append(f"### Decode from the page cache: {title}")
        blocks.append(decode(results, decodes))
    if memories := results.cases("peak_memory"):
        blocks.append("### Memory at its highest, MiB: f32, batch 8, 8 heads, head_dim 64")
        blocks.append(memory(results, memories))
    if missing := [*head.get("failures", []), *head.get("left_out", [])]:
        blocks.append("### Not measured\n\n" + "\n".join(f"- {text}" for text in missing))
    return "\n\n".join(blocks) + "\n"


def speedups(results: Results, cases: list[Case]) -> str:
    """The guide's columns, measured: median (p10 to p90) in ms, and how many times as fast."""
    rows = []
    for case in cases:
        claim = GUIDE_SPEEDUPS[case.causal].get(case.tokens)
        kernel, call = _ratio(results, case, "kernel_time"), _ratio(results, case, "call_time")
        sdpa = _value(results, case, "kernel_time", "peer", "scaled_dot")
        standard = _value(results, case, "kernel_time", "peer", "matmul")
        rows.append(
            [
                case.tokens,
                _spread(results, case, "kernel_time", "peer", "matmul"),
                _spread(results, case, "kernel_time", "peer", "scaled_dot"),
                _spread(results, case, "kernel_time", "ours", "matmul"),
                _spread(results, case, "call_time", "ours", "matmul"),
                _times(standard / sdpa if standard and sdpa else None),
                f"**{_times(kernel)}**",
                _times(call),
                _times(claim.speedup if claim else None),
            ]
        )
    return _table(
        "tokens, standard ms, SDPA ms, attnd's kernel ms, attnd's whole call ms, "
        "SDPA's speed-up, kernel's speed-up, whole call's, the guide's claim",
        rows,
    )


def rates(results: Results, cases: list[Case]) -> str:
    """Work a second against the ceiling, and relative L2 errors against fp64."""
    rows = []
    for case in cases:
        row = results.find(case, "flop_rate", "scaled_dot") or {}
        standard = _value(results, case, "flop_rate", "peer", "matmul")
        errors = [
            _value(results, case, "relative_l2_error", field, peer)
            for field, peer in (("ours", "matmul"), ("peer", "matmul"), ("peer", "scaled_dot"))
        ]
        rows.append(
            [
                case.tokens,
                _number(row.get("ours")),
                _number(row.get("peer")),
                _number(standard),
                _times(row.get("ratio")),
                _number(row.get("ceiling")),
                _percent(row.get("of_ceiling")),
                *(f"{error:.1e}" if error is not None else "-" for error in errors),
            ]
        )
    return _table(
        "tokens, attnd's kernel GFLOP/s, SDPA, standard, kernel against SDPA, ceiling, of it, "
        "relative L2 error, standard's, SDPA's",
        rows,
    )


def overhead(results: Results, cases: list[Case]) -> str:
    """The parts of a call, medians of each: they need not add up to the median of the whole."""
    rows = []
    for case in cases:
        call = _value(results, case, "call_time", "ours")
        kernel = _value(results, case, "kernel_time", "ours")
        whole = _value(results, case, "daemon_overhead", "ours")
        parts = [_value(results, case, f"{part}_time", "ours") for part in _PARTS]
        rows.append(
            [
                case.tokens,
                _number(call),
                _number(kernel),
                *map(_number, parts),
                _spread(results, case, "daemon_overhead", "ours", ""),
                _percent(whole / call if whole and call else None),
            ]
        )
    return _table(
        "tokens, whole call, kernel, stage in, queue, stage out, client and transport, "
        "overhead (p10 to p90), of the call",
        rows,
    )


def decode(results: Results, cases: list[Case]) -> str:
    """A step: kernel and whole call beside SDPA on contiguous tensors that need no append."""
    rows = []
    for case in cases:
        rate = results.find(case, "kv_read_rate") or {}
        rows.append(
            [
                case.tokens,
                _spread(results, case, "kernel_time", "peer", ""),
                _spread(results, case, "kernel_time", "ours", ""),
                _spread(results, case, "call_time", "ours", ""),
                _times(_ratio(results, case, "kernel_time", "")),
                _times(_ratio(results, case, "call_time", "")),
                _number(rate.get("ours")),
                _number(rate.get("ceiling")),
                _percent(rate.get("of_ceiling")),
            ]
        )
    return _table(
        "context, SDPA ms, attnd's kernel ms, attnd's whole call ms, kernel against SDPA, "
        "whole call against SDPA, kernel GB/s, ceiling, of it",
        rows,
    )


def memory(results: Results, cases: list[Case]) -> str:
    """Measured peaks, what the formulas give, and the guide's numbers."""
    rows = []
    for case in cases:
        saved = results.find(case, "memory_saved") or {}
        guide = GUIDE_MEMORY_GB.get(case.tokens)
        parts = [_value(results, case, f"peak_memory_{part}", "ours") for part in _PROCESSES]
        rows.append(
            [
                case.tokens,
                _number(case.scores_bytes / 2**20),
                _number(case.standard_bytes / 2**20),
                _number(_value(results, case, "peak_memory", "peer", "matmul")),
                _number(_value(results, case, "peak_memory", "peer", "scaled_dot")),
                _number(_value(results, case, "peak_memory", "ours", "matmul")),
                " + ".join(map(_number, parts)),
                _percent(saved.get("ours")),
                _percent(saved.get("ceiling")),
                f"{guide[0]} GB, {guide[1]} GB, {_percent(saved.get('peer'))}" if guide else "-",
            ]
        )
    on_gpu = results.head.get("device") == "cuda"
    hosts = "and on the host: client + daemon" if on_gpu else "of it client + daemon"
    return _table(
        "tokens, one score matrix, standard by formula, standard measured, SDPA measured, "
        f"attnd measured, {hosts}, saved, at best, the guide: standard; flash; saved",
        rows,
    )


def _value(results: Results, case: Case, metric: str, field: str, peer: str = "") -> float | None:
    row = results.find(case, metric, peer)
    value: float | None = row[field] if row else None
    return value


def _ratio(results: Results, case: Case, metric: str, peer: str = "matmul") -> float | None:
    return _value(results, case, metric, "ratio", peer)


def _spread(results: Results, case: Case, metric: str, field: str, peer: str) -> str:
    middle, low, high = (
        _value(results, case, metric + suffix, field, peer) for suffix in ("", "_p10", "_p90")
    )
    if middle is None or low is None or high is None:
        return "-"
    return f"{_number(middle)} ({_number(low)} to {_number(high)})"


def _number(value: float | None) -> str:
    """Three digits that count, and no exponent."""
    if value is None:
        return "-"
    size = abs(value)
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def _times(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}x" if value >= 0.1 else f"{value:.2g}x"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _table(header: str, rows: Iterable[Iterable[object]]) -> str:
    names = [name.strip().replace(";", ",") for name in header.split(",")]
    lines = [names, ["---:"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
