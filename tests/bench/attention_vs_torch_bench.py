#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CPU attention beside PyTorch's flash kernel, in one run, alternating.

    .venv/bin/python tests/bench/attention_vs_torch_bench.py --json build/bench/vs_torch.json

Workloads: prefill, batch 8, 8 heads, head_dim 64 and 128, causal and not, 128 to 2048 tokens, fp32,
fp16 and bf16; decode with 32 query and 8 KV heads, head_dim 128, fp16 and bf16 KV. Ours reads the
same dense layout in prefill and 16-token pages in random order in decode, where PyTorch reads
contiguous tensors and gets the better of two formulations. One and two threads each.

Our side is build/release/bench/bin/attention_bench --worker, which checks its output against the
fp64 reference before it is timed; PyTorch's output is checked against fp64 here. FLOPs: 4 head_dim
for each pair of a query and a key that it sees, causal n(n+1)/2 pairs. Bytes: K and V once.
Ours, PyTorch and a sample of the ceiling (fp32 FMA peak, the bf16 unit's peak, memory reads) take
turns; numbers are medians, shares medians of neighbouring samples' ratios.

A second table sets fp32 prefill beside standard attention, which stores the scores: matmul, mask,
softmax, matmul. Its claims are the speed-ups that attnd set out with; the ceiling is the speed-up
that the fp32 FMA peak would be. A third table sets the memory that an attention takes, its queries,
keys, values and outputs included, beside standard attention's: peak resident bytes above those
before the case. The ceiling is what queries, keys, values and outputs alone would save.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

# OpenBLAS, where PyTorch uses it, takes some CPUs for others when these are set; unset together it
# detects the CPU itself, so that the peer is measured at its best.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import torch  # noqa: E402  (after the environment)
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
# Relative L2 against fp64 beyond which PyTorch's result would be wrong, not only rounded.
PEER_BOUND = {"f32": 1e-5, "f16": 2e-3, "bf16": 2e-2}


class Worker:
    """attention_bench --worker: a line out, a line in."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"attention_bench gave up on '{line}'")
        return answer.split()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def prefill_cases(quick):
    for dtype in ("f32", "f16", "bf16"):
        for dim in (64, 128):
            for causal in (False, True):
                for tokens in (128, 512, 2048) if quick else (128, 256, 512, 1024, 2048):
                    yield dict(phase="prefill", dtype=dtype, batch=8, heads=8, kv_heads=8, dim=dim,
                               tokens=tokens, causal=causal)


def decode_cases(quick):
    sizes = ((1, 4096), (8, 4096)) if quick else ((1, 4096), (8, 4096), (32, 4096), (1, 32768),
                                                  (8, 32768))
    for dtype in ("f16", "bf16"):
        for batch, tokens in sizes:
            yield dict(phase="decode", dtype=dtype, batch=batch, heads=32, kv_heads=8, dim=128,
                       tokens=tokens, causal=False)


# Times standard attention at 128, 256, 512, 1024 and 2048 tokens, head_dim 64.
CLAIMED_SPEEDUPS = {False: (1.5, 2.3, 3.2, 4.7, 6.8), True: (1.7, 2.6, 3.7, 5.5, 8.2)}


def standard_cases():
    for causal, claims in CLAIMED_SPEEDUPS.items():
        for tokens, claim in zip((128, 256, 512, 1024, 2048), claims):
            yield claim, dict(phase="prefill", dtype="f32", batch=8, heads=8, kv_heads=8, dim=64,
                              tokens=tokens, causal=causal)


# What was claimed to be saved of standard attention's memory, batch 8, 8 heads, head_dim 64, fp32.
CLAIMED_SAVINGS = {1024: 0.74, 2048: 0.86, 4096: 0.93}


def kibibytes(path, field):
    with open(path, encoding="utf-8") as lines:
        return int(next(line for line in lines if line.startswith(field)).split()[1])


def resident_bytes(process, field):
    return kibibytes(f"/proc/{process}/status", field) * 1024


def peak_bytes(process, run):
    """What `run` adds, at its highest, to the resident memory of a process."""
    before = resident_bytes(process, "VmRSS")
    pathlib.Path(f"/proc/{process}/clear_refs").write_text("5", encoding="utf-8")
    run()
    return resident_bytes(process, "VmHWM") - before


def standard_once(tokens):
    q, k, v = (torch.randn(8, 8, tokens, 64) for _ in range(3))
    return standard_attention(q, k, v, False)


def standard_peak(tokens):
    """In a process of its own, so that nothing that an allocator keeps is counted or missing."""
    standard_once(16)
    return peak_bytes("self", lambda: standard_once(tokens))


def saving_row(program, tokens):
    worker = Worker(program)
    case = f"case 1 prefill f32 8 8 8 64 {tokens} 0"
    ours = peak_bytes(worker.process.pid, lambda: worker.ask(case))
    worker.close()
    peer = int(subprocess.run([sys.executable, __file__, "--standard_peak", str(tokens)],
                              text=True, capture_output=True, check=True).stdout)
    tensors = 4 * 8 * 8 * tokens * 64 * 4
    return dict(bench="attention_vs_torch", case=f"prefill f32 b=8 h=8/8 d=64 n={tokens}",
                metric="peak_memory", unit="MiB", ours=ours / 2**20, peer=peer / 2**20,
                peer_name=f"PyTorch {torch.__version__} matmul, softmax, matmul",
                ratio=1 - ours / peer, ceiling=1 - tensors / peer)


def standard_attention(q, k, v, causal):
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.softmax(scores, -1) @ v


def peer_runs(case, standard=False):
    """The formulations of a case in PyTorch: functions that run it once, to the same result."""
    dtype = DTYPES[case["dtype"]]
    queries = 1 if case["phase"] == "decode" else case["tokens"]
    q = torch.randn(case["batch"], case["heads"], queries, case["dim"]).to(dtype)
    k = torch.randn(case["batch"], case["kv_heads"], case["tokens"], case["dim"]).to(dtype)
    v = torch.randn(case["batch"], case["kv_heads"], case["tokens"], case["dim"]).to(dtype)
    group = case["heads"] // case["kv_heads"]
    runs = []
    if standard:
        runs.append(lambda: standard_attention(q, k, v, case["causal"]))
    elif group == 1:
        runs.append(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=case["causal"]))
    else:
        runs.append(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
        # The query heads of a KV head as rows of one query: K and V are read once for all of them.
        rows = q.view(case["batch"], case["kv_heads"], group, case["dim"])
        runs.append(lambda: F.scaled_dot_product_attention(rows, k, v).view_as(q))
    return runs, (q, k, v)


def check_peer(case, run, tensors):
    """PyTorch's result on one batch entry and head against fp64."""
    q, k, v = (t[:1] for t in tensors)
    group = case["heads"] // case["kv_heads"]
    s = q[:, :1, -8:].double() @ k[:, :1].double().transpose(-1, -2) / case["dim"] ** 0.5
    if case["causal"]:
        n = s.shape[-1]
        row = torch.arange(n - s.shape[-2], n)[:, None]
        s = s.masked_fill(torch.arange(n)[None, :] > row, float("-inf"))
    want = torch.softmax(s, -1) @ v[:, :1].double()
    got = run()[:1, :1, -8:].double()
    assert group >= 1
    error = float((got - want).norm() / want.norm())
    assert error < PEER_BOUND[case["dtype"]], f"PyTorch is off by {error} on {case}"
    return error


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(worker, case, threads, budget_s, standard=False):
    """Medians of alternating launches: ours, the best formulation of the peer."""
    line = " ".join(str(w) for w in (
        "case", threads, case["phase"], case["dtype"], case["batch"], case["heads"],
        case["kv_heads"], case["dim"], case["tokens"], int(case["causal"])))
    error, flops, kv_bytes, *name = worker.ask(line)
    torch.set_num_threads(threads)
    runs, tensors = peer_runs(case, standard)
    for run in runs:
        peer_error = check_peer(case, run, tensors)
    work = float(kv_bytes if case["phase"] == "decode" else flops)
    ours, ceilings, peers = [], [], [[] for _ in runs]
    start = time.perf_counter()
    while len(ours) < 5 or (time.perf_counter() - start < budget_s and len(ours) < 200):
        ceilings.append(float(worker.ask("ceiling")[0]))
        ours.append(float(worker.ask("run")[0]))
        for times, run in zip(peers, runs):
            times.append(seconds_of(run))
    return dict(name=" ".join(name) + f" threads={threads}", error=float(error),
                peer_error=peer_error, ours=work / statistics.median(ours),
                peer=work / min(statistics.median(t) for t in peers),
                ceiling=statistics.median(ceilings),
                of_ceiling=statistics.median(
                    work / t / ceiling for t, ceiling in zip(ours, ceilings)))


def row_of(case, result, peer="scaled_dot_product_attention, flash"):
    decode = case["phase"] == "decode"
    return dict(bench="attention_vs_torch", case=result["name"],
                metric="kv_read_rate" if decode else "flop_rate",
                unit="GB/s" if decode else "GFLOP/s", ours=result["ours"] / 1e9,
                peer=result["peer"] / 1e9,
                peer_name=f"PyTorch {torch.__version__} {peer}",
                ratio=result["ours"] / result["peer"], ceiling=result["ceiling"] / 1e9,
                of_ceiling=result["of_ceiling"])


def head(program):
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8")
                  if line.startswith("model name")), "unknown CPU")
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True, check=False).stdout.strip()
    now = datetime.datetime.now(datetime.timezone.utc)
    return dict(hardware=f"{model}, {len(os.sched_getaffinity(0))} CPUs",
                command=" ".join(["tests/bench/attention_vs_torch_bench.py", *sys.argv[1:]]),
                date=now.strftime("%Y-%m-%dT%H:%M:%SZ"), commit=commit, program=program.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path,
                        default=ROOT / "build/release/bench/bin/attention_bench")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--budget_s", type=float, default=2.0, help="seconds a case")
    parser.add_argument("--only", default="", help="cases whose description contains this")
    parser.add_argument("--standard_peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.standard_peak:
        torch.set_num_threads(1)
        with torch.inference_mode():
            print(standard_peak(args.standard_peak))
        return

    worker = Worker(args.program)
    cpus = len(os.sched_getaffinity(0))
    rows = []
    with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        for threads in sorted({1, min(2, cpus)}):
            print(f"\n{'case':<52} {'ours':>8} {'torch':>8} {'ratio':>6} {'ceiling':>8} "
                  f"{'of it':>6} {'error':>8} {'torch':>8}")
            for case in [*prefill_cases(args.quick), *decode_cases(args.quick)]:
                text = f"{case['phase']} {case['dtype']} d={case['dim']} n={case['tokens']}"
                if args.only not in text:
                    continue
                result = measure(worker, case, threads, args.budget_s)
                row = row_of(case, result)
                rows.append(row)
                print(f"{row['case']:<52} {row['ours']:8.1f} {row['peer']:8.1f} "
                      f"{row['ratio']:6.2f} {row['ceiling']:8.1f} {row['of_ceiling']:6.2f} "
                      f"{result['error']:8.1e} {result['peer_error']:8.1e}", flush=True)
        for threads in sorted({1, min(2, cpus)}):
            print(f"\n{'beside standard attention':<52} {'claim':>8} {'measured':>8} "
                  f"{'ceiling':>8}")
            for claim, case in standard_cases():
                if args.only not in f"standard n={case['tokens']}":
                    continue
                result = measure(worker, case, threads, args.budget_s, standard=True)
                row = row_of(case, result, peer="matmul, softmax, matmul")
                rows.append(row)
                print(f"{row['case']:<52} {claim:8.1f} {row['ratio']:8.2f} "
                      f"{result['ceiling'] / result['peer']:8.2f}", flush=True)
    worker.close()
    if args.only in "memory":
        print(f"\n{'peak memory, MiB':<52} {'ours':>8} {'torch':>8} {'claim':>8} "
              f"{'measured':>8} {'ceiling':>8}")
        for tokens, claim in CLAIMED_SAVINGS.items():
            needed = 4 * 8 * 8 * tokens * tokens * 4
            if needed > kibibytes("/proc/meminfo", "MemAvailable") * 1024:
                print(f"{tokens} tokens: left out, standard attention needs {needed >> 20} MiB")
                continue
            row = saving_row(args.program, tokens)
            rows.append(row)
            print(f"{row['case']:<52} {row['ours']:8.1f} {row['peer']:8.1f} {claim:8.2f} "
                  f"{row['ratio']:8.2f} {row['ceiling']:8.2f}", flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(dict(head=head(args.program), rows=rows), indent=1) + "\n",
                             encoding="utf-8")


if __name__ == "__main__":
    main()
