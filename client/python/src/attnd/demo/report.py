# SPDX-License-Identifier: Apache-2.0
"""What the demo found, as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

from attnd.demo.metrics import Scrape
from attnd.transformers import AttentionClock

_MIB = 2**20


@dataclass(slots=True)
class Outcome:
    """The facts of the last line."""

    prompts: int = 0
    tokens: int = 0
    identical: bool = False
    resumed: bool = False
    attention_ms: float = 0.0
    pages_peak: int = 0


def verdict_line(outcome: Outcome) -> str:
    """The last line, for machines."""
    return (
        f"demo: tokens_identical={_yes(outcome.identical)} resumed={_yes(outcome.resumed)} "
        f"prompts={outcome.prompts} tokens={outcome.tokens} "
        f"attention_ms={outcome.attention_ms:.0f} pages_peak={outcome.pages_peak}"
    )


def print_answers(prompts: tuple[str, ...], prompt_lengths: list[int], answers: list[str]) -> None:
    """The text, each answer below its prompt."""
    for prompt, length, answer in zip(prompts, prompt_lengths, answers, strict=True):
        print(f"\n  > {textwrap.shorten(prompt, 88)}  ({length} tokens)")
        print(textwrap.fill(answer.strip(), 96, initial_indent="    ", subsequent_indent="    "))
    print()


def print_clock(clock: AttentionClock, generation_s: float) -> None:
    """Where the time of the batch went."""
    wall_s = clock.wall_ns / 1e9
    print(f"  attention took {wall_s:.2f} s of {generation_s:.2f} s, in {clock.calls} calls:")
    rows = [
        ("daemon: kernel", clock.kernel_ns),
        ("daemon: queue", clock.queue_ns),
        ("daemon: stage in and out", clock.stage_in_ns + clock.stage_out_ns),
        ("client, gRPC and the way between", clock.wall_ns - clock.daemon_ns),
    ]
    for label, time_ns in rows:
        per_call_us = time_ns / 1e3 / max(clock.calls, 1)
        print(f"    {label:<34} {time_ns / 1e6:8.1f} ms  ({per_call_us:7.1f} us a call)")


def print_daemon(cache: Any, stats: Any, scrape: Scrape | None, pages_peak: int) -> None:
    """The daemon's own figures, from its metrics or, where it has none, from GetStats."""

    def figure(from_stats: float, name: str, **labels: str) -> float:
        value = scrape.total(name, **labels) if scrape else None
        return from_stats if value is None else value

    resident = figure(stats.resident_bytes, "process_resident_memory_bytes")
    free = figure(stats.pool_free_bytes, "attnd_pool_bytes", use="free")
    slabs = figure(stats.pool_bytes - stats.pool_free_bytes, "attnd_pool_bytes", use="slabs")
    print(
        f"  the daemon's pages: {pages_peak} in use at most, of {cache.geometry.page_size_tokens} "
        f"tokens in all layers, {cache.page_bytes / 2**10:.0f} KiB each"
    )
    print(
        f"  the daemon's memory: {resident / _MIB:.0f} MiB resident; "
        f"pool: {slabs / _MIB:.0f} MiB in slabs, {free / _MIB:.0f} MiB free"
    )
    if scrape is None:
        print("  (from GetStats: no --metrics was given)")


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
