#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GPU attention beside PyTorch's, in one process and one run, taking turns.

    python3 gpu_bench.py --library libattnd_hip_bench.so --json gpu_bench.json [--quick]

Workloads: decode, bf16, 32 query and 8 KV heads, head_dim 128; causal prefill, bf16, 32/8 heads,
head_dim 128 and 64; both from 16-token pages in random order, where PyTorch reads contiguous
tensors. fp32 against PyTorch's EFFICIENT backend; batch 8, 8 heads, head_dim 64, fp32 and fp16,
against standard attention (matmul, mask, softmax, matmul), both sides dense; appends.

Each output is checked against fp64 before anything is timed, and in full against a peer's. Times
are medians of CUDA events on one stream, GPU time alone: the GPU sleeps while the host queues a
launch. Sets of buffers take turns, so that nothing small comes out of L2. Bytes: keys and values
once. FLOPs: 4 head_dim for each pair of a query and a key that it sees, causal n(n+1)/2 pairs.
Ceilings of the same run: a device-to-device copy for bytes; an 8192^3 matrix product for FLOPs, for
fp32 the better of that in fp32 and a sixth of that in bf16 (fp32 as three parts of bf16).
Exit status 1: an output was wrong.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import append
import timing
from library import Library
from problem import Problem, Shape, check

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
HERE = pathlib.Path(__file__).resolve().parent

# The relative L2 error that an output may have; 16-bit ones at most 1.1 times PyTorch FLASH's too.
BOUND = {F32: 1e-6, F16: 1e-3, BF16: 6e-3}

DECODES = ((1, 4096), (1, 32768), (1, 131072), (8, 4096), (8, 32768), (32, 4096), (64, 8192),
           (128, 1024))
QUICK_DECODES = ((1, 4096), (8, 32768), (64, 8192))
# These are to reach 0.93 of the copy ceiling.
CEILING_DECODES = ((64, 8192), (8, 32768))
PREFILLS = ((8, 2048), (4, 4096), (2, 8192), (1, 16384))
QUICK_PREFILLS = ((4, 4096), (1, 16384))
# Times standard attention at 128, 256, 512, 1024 and 2048 tokens: what attnd set out with.
CLAIM_TOKENS = (128, 256, 512, 1024, 2048)
CLAIMED_SPEEDUPS = {False: (1.5, 2.3, 3.2, 4.7, 6.8), True: (1.7, 2.6, 3.7, 5.5, 8.2)}
# And of its memory saved, fp32, not causal.
CLAIMED_SAVINGS = {1024: 0.74, 2048: 0.86, 4096: 0.93}


def sdpa(backend, shape, problem):
    """A function of a turn: PyTorch's attention by one backend."""
    def run(turn):
        s = problem.buffers(turn)
        return F.scaled_dot_product_attention(
            s.q, s.k, s.v, is_causal=shape.causal and shape.queries > 1,
            enable_gqa=shape.heads != shape.kv_heads)
    return timing.in_context(run, lambda: sdpa_kernel(backend))


def packed_flash(shape, problem):
    """FLASH with the query heads of a KV head as rows of one query: decode's other formulation."""
    def run(turn):
        s = problem.buffers(turn)
        rows = s.q.view(shape.batch, shape.kv_heads, -1, shape.dim)
        return F.scaled_dot_product_attention(rows, s.k, s.v).view_as(s.q)
    return timing.in_context(run, lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION))


def standard(shape, problem):
    """Attention that stores its scores."""
    def run(turn):
        s = problem.buffers(turn)
        scores = (s.q @ s.k.transpose(-1, -2)) * shape.dim**-0.5
        if shape.causal:
            hidden = torch.ones(scores.shape[-2:], device=scores.device, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        return torch.softmax(scores, -1) @ s.v
    return run


class Bench:
    def __init__(self, library, ceilings, budget_s):
        self.library, self.ceilings, self.budget_s = library, ceilings, budget_s
        self.rows, self.wrong, self.missed = [], [], []

    def row(self, shape, metric, unit, ours, peer=None, peer_name=None, ratio=None, ceiling=None):
        if ratio is None and peer:
            ratio = ours / peer
        self.rows.append(dict(
            bench="gpu", case=str(shape), metric=metric, unit=unit, ours=ours, peer=peer,
            peer_name=peer_name and f"PyTorch {torch.__version__} {peer_name}", ratio=ratio,
            ceiling=ceiling, of_ceiling=ours / ceiling if ceiling else None))

    def goal(self, shape, what, value, least):
        if value < least:
            self.missed.append(f"{shape}: {what} {value:.3f}, to be {least}")
        return "" if value >= least else " <"

    def peak(self, dtype):
        if dtype == F32:
            return max(self.ceilings[F32], self.ceilings[BF16] / 6)
        return self.ceilings[dtype]

    def checked(self, shape, peers):
        """A problem whose output is right, and those of `peers` (name -> maker) that run."""
        problem = Problem(shape, self.library)
        runs, out = {}, None
        for name, make in peers.items():
            run = make(shape, problem)
            try:
                result = timing.run_once(run)
            except RuntimeError as error:
                print(f"  {name} does not run {shape}: {str(error).splitlines()[0][:80]}")
                continue
            runs[name] = run
            out = result if out is None else out
        problem.launch(0)
        self.library.wait()
        ours, theirs = check(problem, 0, out)
        bound = BOUND[shape.dtype]
        if theirs is not None and shape.dtype != F32:
            bound = min(bound, 1.1 * theirs)
        if not ours <= bound:
            self.wrong.append(f"{shape}: relative L2 {ours:.2e}, at most {bound:.2e} is right")
        self.row(shape, "relative_l2_error", "1", ours, theirs, next(iter(runs), None))
        return problem, runs, ours

    def times(self, problem, runs, **options):
        """Medians in ms: ours, then {name: of a peer}."""
        ours, *peers = timing.medians_ms([problem.launch, *runs.values()], self.budget_s, **options)
        return ours, dict(zip(runs, peers))

    def decode(self, batch, tokens):
        shape = Shape(batch, tokens, 1, 32, 8, 128, BF16, causal=True)
        peers = {"FLASH": lambda *a: sdpa(SDPBackend.FLASH_ATTENTION, *a),
                 "CUDNN": lambda *a: sdpa(SDPBackend.CUDNN_ATTENTION, *a),
                 "FLASH, packed": packed_flash}
        problem, runs, error = self.checked(shape, peers)
        copy = self.ceilings["copy"]
        line = f"{shape!s:<48}"
        for metric, from_idle in (("kv_read_rate", False), ("kv_read_rate_from_idle", True)):
            ours, times = self.times(problem, runs, from_idle=from_idle)
            rate = shape.kv_bytes / ours / 1e9
            for name, ms in times.items():
                self.row(shape, metric, "TB/s", rate, shape.kv_bytes / ms / 1e9, name, ceiling=copy)
            best = shape.kv_bytes / 1e9 / min(
                (ms for name, ms in times.items() if name != "FLASH, packed"), default=float("inf"))
            line += f" {rate:6.2f} {best:6.2f} {rate / best if best else 0:6.2f}"
            if not from_idle:
                line += self.goal(shape, "of PyTorch's better backend", rate / best, 1.0)
                line += f" {rate / copy:6.2f}"
                if (batch, tokens) in CEILING_DECODES:
                    line += self.goal(shape, "of the copy ceiling", rate / copy, 0.93)
                if "FLASH, packed" in times:
                    line += f" {shape.kv_bytes / times['FLASH, packed'] / 1e9:6.2f}"
        print(f"{line} {error:9.1e}", flush=True)
        problem.free()

    def prefill(self, shape, peers, goal_peer):
        problem, runs, error = self.checked(shape, peers)
        ours, times = self.times(problem, runs)
        rate, peak = shape.flops / ours / 1e9, self.peak(shape.dtype)
        line = f"{shape!s:<52} {ours:8.3f} {rate:8.1f}"
        for name in peers:
            if name not in times:
                line += f" {'-':>8} {'-':>6}"
                continue
            peer = shape.flops / times[name] / 1e9
            self.row(shape, "flop_rate", "TFLOP/s", rate, peer, name, ceiling=peak)
            line += f" {peer:8.1f} {rate / peer:6.2f}"
            if name == goal_peer:
                line += self.goal(shape, f"of {name}", rate / peer, 1.0)
        print(f"{line} {rate / peak:6.2f} {error:9.1e}", flush=True)
        problem.free()

    def claim(self, tokens, dtype, causal, claimed):
        """Speed-up over standard attention; the ceiling is by FLOPs, bytes and a bare launch."""
        shape = Shape(8, tokens, tokens, 8, 8, 64, dtype, causal, page_size=tokens)
        problem, runs, error = self.checked(shape, {"matmul, softmax, matmul": standard})
        ours, times = self.times(problem, runs)
        theirs, = times.values()
        floor = max(shape.flops / self.peak(dtype) / 1e9,
                    shape.tensor_bytes / self.ceilings["copy"] / 1e9, self.ceilings["launch_ms"])
        speedup, ceiling = theirs / ours, theirs / floor
        self.row(shape, "time", "ms", ours, theirs, "matmul, softmax, matmul",
                 ratio=speedup)
        self.rows.append(dict(
            bench="gpu", case=str(shape), metric="speedup_over_standard", unit="1", ours=speedup,
            peer=claimed, peer_name="the claim that attnd set out with", ratio=speedup / claimed,
            ceiling=ceiling, of_ceiling=speedup / ceiling))
        mark = ""
        if claimed <= 0.8 * ceiling:
            mark = self.goal(shape, "speed-up over standard attention", speedup, claimed)
        print(f"{shape!s:<52} {ours:8.4f} {theirs:8.4f} {claimed:6.1f} {speedup:8.2f} "
              f"{ceiling:8.1f}{mark} {error:9.1e}", flush=True)
        problem.free()

    def saving(self, tokens, claimed, workspace_bytes):
        """Memory at its highest, queries, keys, values and outputs included."""
        shape = Shape(8, tokens, tokens, 8, 8, 64, F32, False, page_size=tokens)
        problem = Problem(shape, self.library, sets=1)
        run = standard(shape, problem)
        run(0)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(0)
        torch.cuda.synchronize()
        # Its output is among what it adds.
        q_k_v = shape.tensor_bytes * 3 // 4
        peer = torch.cuda.max_memory_allocated() - before + q_k_v
        ours = shape.tensor_bytes + workspace_bytes
        saved, ceiling = 1 - ours / peer, 1 - shape.tensor_bytes / peer
        self.row(shape, "peak_memory", "MiB", ours / 2**20, peer / 2**20,
                 "matmul, softmax, matmul", ratio=saved)
        mark = self.goal(shape, "of the memory saved", saved, claimed)
        print(f"{shape!s:<52} {ours / 2**20:8.1f} {peer / 2**20:8.1f} {claimed:6.2f} {saved:8.2f} "
              f"{ceiling:8.2f}{mark}", flush=True)
        problem.free()

    def append(self, batch, tokens):
        """New keys and values into pages: GB/s read and written, and inside a captured graph."""
        result = append.measure(self.library, batch, tokens, self.budget_s)
        if not result.right:
            self.wrong.append(f"{result.name}: pages differ from what was appended")
        copy = self.ceilings["copy"]
        self.row(result.name, "copy_rate", "TB/s", result.rate, result.peer_rate,
                 "copy of as many bytes", ceiling=copy)
        self.row(result.name, "time_in_graph", "us", result.graph_us)
        mark = ""
        if batch == 1:
            mark = self.goal(result.name, "of the copy ceiling", result.rate / copy, 0.8)
        else:
            mark = self.goal(result.name, "5 us over the time in a graph",
                             5.0 / result.graph_us, 1.0)
        print(f"{result.name:<40} {result.rate:8.3f} {result.peer_rate:8.3f} "
              f"{result.rate / copy:6.2f} {result.graph_us:8.2f} us{mark}", flush=True)


def run_all(bench, args, workspace_bytes):
    def wanted(name):
        return args.only in name

    if wanted("decode"):
        print(f"\n{'decode, TB/s of keys and values':<48} {'ours':>6} {'torch':>6} {'ratio':>6} "
              f"{'of cp':>6} {'packed':>6} {'idle':>6} {'torch':>6} {'ratio':>6} {'error':>9}")
        for batch, tokens in QUICK_DECODES if args.quick else DECODES:
            bench.decode(batch, tokens)
    sixteen = {"FLASH": lambda *a: sdpa(SDPBackend.FLASH_ATTENTION, *a),
               "CUDNN": lambda *a: sdpa(SDPBackend.CUDNN_ATTENTION, *a)}
    single = {"EFFICIENT": lambda *a: sdpa(SDPBackend.EFFICIENT_ATTENTION, *a)}
    if wanted("prefill"):
        print(f"\n{'prefill, TFLOP/s':<52} {'ms':>8} {'ours':>8} {'FLASH':>8} {'ratio':>6} "
              f"{'CUDNN':>8} {'ratio':>6} {'of mm':>6} {'error':>9}")
        for dim in (128, 64):
            for batch, tokens in QUICK_PREFILLS if args.quick else PREFILLS:
                bench.prefill(Shape(batch, tokens, tokens, 32, 8, dim, BF16, True), sixteen,
                              "FLASH")
    if wanted("fp32"):
        print(f"\n{'fp32, TFLOP/s':<52} {'ms':>8} {'ours':>8} {'EFFIC.':>8} {'ratio':>6} "
              f"{'of mm':>6} {'error':>9}")
        for causal in (False, True):
            bench.prefill(Shape(8, 4096, 4096, 8, 8, 64, F32, causal, page_size=4096), single,
                          "EFFICIENT")
    if wanted("standard"):
        print(f"\n{'beside standard attention':<52} {'ms':>8} {'torch':>8} {'claim':>6} "
              f"{'measured':>8} {'ceiling':>8} {'error':>9}")
        for dtype in (F32, F16):
            for causal, claims in CLAIMED_SPEEDUPS.items():
                for tokens, claimed in zip(CLAIM_TOKENS, claims):
                    if not args.quick or tokens in (128, 2048):
                        bench.claim(tokens, dtype, causal, claimed)
    if wanted("memory"):
        print(f"\n{'memory at its highest, MiB':<52} {'ours':>8} {'torch':>8} {'claim':>6} "
              f"{'saved':>8} {'ceiling':>8}")
        for tokens, claimed in CLAIMED_SAVINGS.items():
            bench.saving(tokens, claimed, workspace_bytes)
    if wanted("append"):
        print(f"\n{'append, TB/s read and written':<40} {'ours':>8} {'copy':>8} {'of cp':>6} "
              f"{'in graph':>8}")
        for batch, tokens in ((64, 1), (1, 8192)):
            bench.append(batch, tokens)


def measure_workspace(library):
    """What a backend keeps on the device beside the tensors: what a second one takes of it, since
    the first has loaded the code, which the peers' numbers do not count either."""
    def launch(launcher):
        warm = Problem(Shape(8, 4096, 4096, 8, 8, 64, F32, False, page_size=4096), launcher, sets=1)
        torch.cuda.synchronize()
        free = torch.cuda.mem_get_info()[0]
        warm.launch(0)
        launcher.wait()
        grown = free - torch.cuda.mem_get_info()[0]
        warm.free()
        return grown

    launch(library)
    free = torch.cuda.mem_get_info()[0]
    second = Library(library.path)
    kept = free - torch.cuda.mem_get_info()[0]
    with torch.cuda.stream(torch.cuda.ExternalStream(second.stream)):
        kept += launch(second)
    second.close()
    return max(0, kept)


def output_of(*command):
    try:
        return subprocess.run(command, text=True, capture_output=True, check=False, cwd=HERE
                              ).stdout.strip()
    except OSError:
        return ""


def head(library):
    # A bundle has no repository; it carries its commit.
    carried = HERE.parent / "commit"
    commit = carried.read_text().strip() if carried.exists() else output_of(
        "git", "rev-parse", "--short=12", "HEAD")
    driver = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    now = datetime.datetime.now(datetime.timezone.utc)
    return dict(hardware=f"{torch.cuda.get_device_name()}, driver {driver}, {library.name}, "
                         f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}",
                command=" ".join(["tests/bench/hip/gpu_bench.py", *sys.argv[1:]]),
                date=now.strftime("%Y-%m-%dT%H:%M:%SZ"), commit=commit)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=pathlib.Path, default=HERE / "libattnd_hip_bench.so")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="fewer shapes, less time each")
    parser.add_argument("--only", default="",
                        help="decode, prefill, fp32, standard, memory or append")
    parser.add_argument("--budget_s", type=float, help="seconds to time a shape")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.init()

    library = Library(args.library)
    print(f"{library.name}, PyTorch {torch.__version__}")
    budget_s = args.budget_s or (0.1 if args.quick else 0.4)
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.ExternalStream(library.stream)):
        workspace = measure_workspace(library)
        ceilings = timing.measure_ceilings()
        print("ceilings: copy {copy:.2f} TB/s, read {read:.2f} TB/s, launch {launch_ms:.4f} ms"
              .format(**ceilings), *(f"{str(dtype)[6:]} {ceilings[dtype]:.0f} TFLOP/s"
                                     for dtype in (BF16, F16, F32)), sep=", ")
        bench = Bench(library, ceilings, budget_s)
        run_all(bench, args, workspace)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps(dict(head=head(library), rows=bench.rows), indent=1) + "\n",
            encoding="utf-8")
    for title, lines in (("short of its goal", bench.missed), ("WRONG", bench.wrong)):
        print(f"\n{title}: {len(lines)}", *lines, sep="\n  ")
    sys.exit(1 if bench.wrong else 0)


if __name__ == "__main__":
    main()
