# SPDX-License-Identifier: Apache-2.0
"""GPU time of launches that take turns, by CUDA events, and the ceilings of the machine."""

import contextlib
import statistics
import time

import torch

# Cycles of the GPU's clock a second, at most: sleeps are counted in them.
CLOCK_HZ = 2.0e9


def in_context(run, context):
    """`run`, to be called in a context that takes time to enter, and is no part of what it does."""
    run.context = context
    return run


def _context(run):
    return getattr(run, "context", contextlib.nullcontext)()


def run_once(run, turn=0):
    with _context(run):
        return run(turn)


def _sleep_cycles(run):
    """For how long the GPU must be kept busy so that `run` is queued in full before it starts."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run_once(run)
    queued = time.perf_counter() - start
    return int(CLOCK_HZ * min(5e-3, max(100e-6, 2 * queued)))


def _events():
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _milliseconds(run, turn, sleep_cycles):
    before, after = _events()
    with _context(run):
        if sleep_cycles:
            torch.cuda._sleep(sleep_cycles)
        before.record()
        run(turn)
        after.record()
    return before, after


def medians_ms(runs, budget_s, from_idle=False, rounds=(10, 60)):
    """The median time of each of `runs`, functions of a turn's number; every round times each once.

    The GPU sleeps before each while the host queues it, so that the time is the GPU's alone. With
    `from_idle` it does not: then the time is what a caller waits that launches when nothing runs,
    the host's share included.
    """
    for run in runs:
        for turn in range(3):
            run_once(run, turn)
    sleeps = [0 if from_idle else _sleep_cycles(run) for run in runs]
    times = [[] for _ in runs]
    start = time.perf_counter()
    for turn in range(rounds[1]):
        if turn >= rounds[0] and time.perf_counter() - start > budget_s:
            break
        for run, sleep, of_run in zip(runs, sleeps, times):
            before, after = _milliseconds(run, turn, sleep)
            after.synchronize()
            of_run.append(before.elapsed_time(after))
    return [statistics.median(of_run) for of_run in times]


def graph_of(runs, stream):
    """A captured graph that makes each of `runs` once, in order."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
        for run in runs:
            run()
    return graph


def measure_ceilings():
    """TB/s of a copy (read plus written) and of a read; TFLOP/s of an 8192^3 product a dtype."""
    x = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    copy, read = medians_ms(
        [lambda _: y.copy_(x), lambda _: x.view(torch.int32).sum()], budget_s=0.2)
    ceilings = {"copy": 2 * x.nbytes / copy / 1e9, "read": x.nbytes / read / 1e9}
    del x, y
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        ms, = medians_ms([lambda _: torch.matmul(a, b, out=out)], budget_s=0.2)
        ceilings[dtype] = 2 * 8192**3 / ms / 1e9
        del a, b, out
    # The least that anything takes: one element written.
    one = torch.zeros(1, device="cuda")
    ceilings["launch_ms"], = medians_ms([lambda _: one.fill_(1.0)], budget_s=0.05)
    return ceilings
