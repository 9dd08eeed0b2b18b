# SPDX-License-Identifier: Apache-2.0
"""Pictures of results: speed-up, work a second, memory, overhead, decode; PNG and SVG.

Needs matplotlib, and neither torch nor a daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from attnd.bench import canvas
from attnd.bench.canvas import Style, line, lookup
from attnd.bench.cases import GUIDE_MEMORY_GB, GUIDE_SPEEDUPS, Case
from attnd.bench.report import Results

_GPU = "gpu"  # The bench of gpu_bench.json: kernels in process, on device memory.
_ALONE = "attnd: kernel alone, in device memory"
_SHAPE = "batch 8, 8 heads, head_dim 64"
_PARTS: dict[str, tuple[str, Style]] = {
    "kernel": ("kernel", canvas.SERVED),
    "transport": ("client and transport", canvas.SDPA),
    "stage_in": ("stage in", canvas.IN_PROCESS),
    "queue": ("queue", canvas.YELLOW),
    "stage_out": ("stage out", canvas.SKY),
}


def draw(results: Results, folder: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Draws every picture that there are rows for into `folder`; what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with plt.rc_context(canvas.RC):
        for picture in (speedup, tflops, memory, overhead, decode):
            figure = picture(results)
            if figure is None:
                continue
            for suffix in formats:
                path = folder / f"{picture.__name__}.{suffix}"
                figure.savefig(path, dpi=130, metadata={"Date": None} if suffix == "svg" else None)
                written.append(path)
            plt.close(figure)
    return written


def speedup(results: Results) -> Figure | None:
    """How many times as fast as standard attention, beside the guide's claims."""
    metric = "speedup_over_standard"
    standard = lookup(results, "kernel_time", "peer", "matmul")
    sdpa = lookup(results, "kernel_time", "peer", "scaled_dot")

    def of_sdpa(case: Case) -> float | None:
        slow, fast = standard(case), sdpa(case)
        return slow / fast if slow and fast else None

    def claimed(case: Case) -> float | None:
        claim = GUIDE_SPEEDUPS[case.causal].get(case.tokens)
        return claim.speedup if claim else None

    def fill(axes: Axes, cases: list[Case]) -> None:
        axes.axhline(1, color="#999999", linewidth=1)
        kernel, call = lookup(results, metric), lookup(results, f"call_{metric}")
        line(axes, cases, kernel, "attnd: kernel in the daemon", canvas.SERVED)
        line(axes, cases, call, "attnd: whole call", canvas.CALL)
        line(axes, cases, of_sdpa, "PyTorch SDPA", canvas.SDPA)
        if results.head.get("device") == "cuda":
            line(axes, cases, lookup(results, metric, bench=_GPU), _ALONE, canvas.IN_PROCESS)
        line(axes, cases, claimed, "the guide's claim (RX 7900 XTX)", canvas.CLAIM)
        canvas.plain_log_y(axes, "x", base=2)

    title = f"Speed-up over standard attention, {_SHAPE}"
    return canvas.panels(results, metric, title, "times as fast", fill)


def tflops(results: Results) -> Figure | None:
    """Work a second against the ceiling of the same run; bands are the 10th to 90th percentile."""
    ceilings = [row["ceiling"] or 0 for row in results.rows if row["metric"] == "flop_rate"]
    scale, unit = (1e-3, "TFLOP/s") if max(ceilings, default=0) > 5000 else (1.0, "GFLOP/s")

    def alone(case: Case) -> float | None:
        ms = lookup(results, "time", bench=_GPU)(case)
        return case.flops / ms / 1e6 * scale if ms else None

    def fill(axes: Axes, cases: list[Case]) -> None:
        for peer, field, label, style in (
            ("scaled_dot", "ours", "attnd: kernel in the daemon", canvas.SERVED),
            ("scaled_dot", "peer", "PyTorch SDPA", canvas.SDPA),
            ("matmul", "peer", "standard attention", canvas.STANDARD),
        ):
            _band(axes, cases, results, peer, field, scale, style)
            line(axes, cases, lookup(results, "flop_rate", field, peer, scale=scale), label, style)
        if results.head.get("device") == "cuda":
            line(axes, cases, alone, _ALONE, canvas.IN_PROCESS)
        ceiling = lookup(results, "flop_rate", "ceiling", scale=scale)
        line(axes, cases, ceiling, "ceiling, measured in the same run", canvas.CEILING)
        canvas.plain_log_y(axes)

    title = f"Floating-point operations that the result needs, a second, {_SHAPE}"
    return canvas.panels(results, "flop_rate", title, unit, fill)


def memory(results: Results) -> Figure | None:
    """Peaks, measured and by formula, beside the guide's numbers."""
    cases = results.cases("peak_memory")
    if not cases:
        return None
    figure, axes = plt.subplots(figsize=(7.4, 5.4), layout="constrained")

    def peak(field: str, peer: str) -> canvas.Lookup:
        return lookup(results, "peak_memory", field, peer, scale=1 / 1024)

    where = "device" if results.head.get("device") == "cuda" else "client and daemon"
    formula = "standard by formula: q, k, v, out, 2 score matrices"
    line(axes, cases, peak("peer", "matmul"), "standard attention, measured", canvas.STANDARD)
    line(axes, cases, lambda c: c.standard_bytes / 2**30, formula, canvas.CEILING)
    line(axes, cases, peak("ours", "matmul"), f"attnd, {where}, measured", canvas.SERVED)
    line(axes, cases, peak("peer", "scaled_dot"), "PyTorch SDPA, measured", canvas.SDPA)
    tensors: Style = {**canvas.IN_PROCESS, "marker": "", "linestyle": ":", "zorder": 5}
    line(axes, cases, lambda c: c.tensor_bytes / 2**30, "q, k, v, out by formula", tensors)
    for index, (kind, marker) in enumerate((("standard", "x"), ("flash", "+"))):
        style = canvas.CLAIM | {"marker": marker}
        line(axes, cases, _guide(index), f"the guide's number for {kind} attention", style)
    card_gib = 24e9 / 2**30
    axes.axhline(card_gib, color="#767676", linewidth=0.8)
    axes.annotate(
        "all the memory of an RX 7900 XTX: 24 GB",
        (cases[0].tokens, card_gib),
        (0, 3),
        textcoords="offset points",
        fontsize=8,
        color="#555555",
    )
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda y, _: f"{y:g} GiB" if y >= 1 else f"{y * 1024:g} MiB")
    )
    axes.set_ylabel("peak memory of one attention")
    canvas.tokens_axis(axes, cases)
    title = f"Memory, f32, {_SHAPE}, not causal"
    return canvas.finish(figure, [axes], results, columns=2, title=title)


def overhead(results: Results) -> Figure | None:
    """The parts of a whole call: each in ms, and as shares. The mask changes only the kernel."""
    measured = results.cases("daemon_overhead")
    cases = [case for case in measured if case.phase == "prefill" and not case.causal]
    if not cases:
        return None
    dtypes = list(dict.fromkeys(case.dtype for case in cases))
    size = (9, 1.4 + 3.1 * len(dtypes))
    figure, grid = plt.subplots(len(dtypes), 2, figsize=size, squeeze=False, layout="constrained")
    for (left, right), dtype in zip(grid, dtypes, strict=True):
        chosen = [case for case in cases if case.dtype == dtype]
        _parts(left, right, results, chosen)
        left.set_title(f"{dtype}: each part")
        right.set_title(f"{dtype}: share of the call")
    title = f"Where the time of a call from Python goes, {_SHAPE}, not causal"
    return canvas.finish(figure, list(grid.flat), results, columns=6, title=title)


def decode(results: Results) -> Figure | None:
    """One token's step against the length of the context."""
    cases = [case for case in results.cases("kernel_time") if case.phase == "decode"]
    if not cases:
        return None
    figure, axes = plt.subplots(figsize=(7.4, 4.8), layout="constrained")
    ceiling = lookup(results, "kv_read_rate", "ceiling")

    def at_ceiling(case: Case) -> float | None:
        rate = ceiling(case)
        return case.kv_bytes / rate / 1e6 if rate else None

    sdpa, kernel = lookup(results, "kernel_time", "peer"), lookup(results, "kernel_time")
    line(axes, cases, sdpa, "PyTorch SDPA, contiguous, no append", canvas.SDPA)
    line(axes, cases, lookup(results, "call_time"), "attnd: whole call", canvas.CALL)
    line(axes, cases, kernel, "attnd: kernels, append included", canvas.SERVED)
    line(axes, cases, at_ceiling, "keys and values at the measured ceiling", canvas.CEILING)
    canvas.plain_log_y(axes)
    axes.set_ylabel("ms, median")
    canvas.tokens_axis(axes, cases)
    axes.set_xlabel("tokens of context")
    title = "Decode step, bf16, 4 sequences, 32 query and 8 KV heads, head_dim 128"
    return canvas.finish(figure, [axes], results, columns=2, title=title)


def _band(
    axes: Axes,
    cases: Sequence[Case],
    results: Results,
    peer: str,
    field: str,
    scale: float,
    style: Style,
) -> None:
    slow = lookup(results, "kernel_time_p90", field, peer)
    fast = lookup(results, "kernel_time_p10", field, peer)
    points = [(case, low, high) for case in cases if (low := slow(case)) and (high := fast(case))]
    axes.fill_between(
        [case.tokens for case, _, _ in points],
        [case.flops / ms / 1e6 * scale for case, ms, _ in points],
        [case.flops / ms / 1e6 * scale for case, _, ms in points],
        color=style["color"],
        alpha=0.15,
        linewidth=0,
    )


def _parts(left: Axes, right: Axes, results: Results, cases: list[Case]) -> None:
    tokens = [case.tokens for case in cases]
    base = [0.0] * len(cases)
    times = {
        part: [lookup(results, f"{part}_time")(case) or 0.0 for case in cases] for part in _PARTS
    }
    sums = [sum(parts) for parts in zip(*times.values(), strict=True)]
    line(left, cases, lookup(results, "call_time"), "whole call", {"color": "#000000"})
    for part, values in times.items():
        label, style = _PARTS[part]
        left.plot(tokens, values, label=label, **style)
        shares = [value / whole for value, whole in zip(values, sums, strict=True)]
        right.bar(range(len(cases)), shares, 0.7, base, color=style["color"])
        base = [below + share for below, share in zip(base, shares, strict=True)]
    canvas.plain_log_y(left)
    left.set_ylabel("ms, median")
    canvas.tokens_axis(left, cases)
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.set_ylabel("of the sum of the medians")
    right.set_xticks(range(len(cases)), [str(n) for n in tokens])
    right.set_xlabel("tokens")
    right.grid(False, axis="x")


def _guide(index: int) -> canvas.Lookup:
    def gib(case: Case) -> float | None:
        guide = GUIDE_MEMORY_GB.get(case.tokens)
        return guide[index] * 1e9 / 2**30 if guide else None

    return gib
