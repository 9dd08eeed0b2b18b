#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CPU kernels beside PyTorch's flash kernel, in one run, alternating.

    .venv/bin/python tests/bench/attention_vs_torch_bench.py --json build/bench/vs_torch.json

Workloads: prefill, batch 8, 8 heads, head_dim 64 and 128, causal and not, 128 to 2048 tokens, fp32,
fp16 and bf16; decode with 32 query and 8 KV heads, head_dim 128, fp16 and bf16 KV. Ours reads the
same dense layout in prefill and 16-token pages in random order in decode, where PyTorch reads
contiguous tensors and gets the better of two formulations. One and two threads each.

Our side is build/release/bench/bin/attention_bench --worker, kernels with no daemon around them,
which checks its output against the fp64 reference before it is timed; PyTorch's output is checked
against fp64 here. `python -m attnd.bench`, whose parts this uses, measures what a client of the
daemon gets. FLOPs and bytes: attnd/bench/cases.py. Ours, PyTorch and a sample of the ceiling (fp32
FMA peak, the bf16 unit's peak, memory reads) take turns; numbers are medians, shares medians of
neighbouring samples' ratios.

A second table sets fp32 prefill beside standard attention, which stores the scores: matmul, mask,
softmax, matmul. Its claims are the speed-ups that attnd set out with; the ceiling is the speed-up
that the fp32 FMA peak would be. A third table sets the memory that an attention takes, its queries,
keys, values and outputs included, beside standard attention's: peak resident bytes above those
before the case. The ceiling is what queries, keys, values and outputs alone would save.
"""

import argparse
import os
import pathlib

# OpenBLAS, where PyTorch uses it, takes some CPUs for others when these are set; unset together it
# detects the CPU itself, so that the peer is measured at its best.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import torch  # noqa: E402  (after the environment)

from attnd.bench import cases, memory, peers, report, verify  # noqa: E402
from attnd.bench.cases import Case  # noqa: E402
from attnd.bench.ceilings import Worker  # noqa: E402
from attnd.bench.measure import alternate  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
STANDARD = f"PyTorch {torch.__version__} matmul, softmax, matmul"
FLASH = f"PyTorch {torch.__version__} scaled_dot_product_attention, flash"


def prefill_cases(quick):
    for dtype in ("f32", "f16", "bf16"):
        for dim in (64, 128):
            for causal in (False, True):
                for tokens in (128, 512, 2048) if quick else cases.GUIDE_TOKENS:
                    yield Case("prefill", dtype, 8, 8, 8, dim, tokens, causal)


def decode_cases(quick):
    sizes = ((1, 4096), (8, 4096)) if quick else ((1, 4096), (8, 4096), (32, 4096), (1, 32768),
                                                  (8, 32768))
    for dtype in ("f16", "bf16"):
        for batch, tokens in sizes:
            yield Case("decode", dtype, batch, 32, 8, 128, tokens, True)


def standard_cases():
    for causal, claims in cases.GUIDE_SPEEDUPS.items():
        for tokens, claim in claims.items():
            yield claim.speedup, Case.prefill("f32", tokens, causal)


def peer_runs(case, standard):
    """The formulations of a case in PyTorch: functions that run it once, each right."""
    inputs = peers.Inputs.fresh(case, "cpu")
    if case.phase == "decode":
        runs = list(peers.decode_peers(case, inputs).values())
    else:
        runs = [peers.prefill_peers(case, inputs)["standard" if standard else "sdpa"]]
    # One batch entry says whether PyTorch is right.
    first = peers.Inputs(*(x[:1] for x in (inputs.q, inputs.k, inputs.v)))
    rows = verify.checked_rows(inputs.q.shape[1])
    want = verify.truth(case, first, rows)
    errors = [verify.Error.of(run()[:1].transpose(1, 2)[:, rows], want) for run in runs]
    for error in errors:
        assert error.relative_l2 < verify.PEER_BOUND[case.dtype], f"PyTorch: {error} on {case}"
    return runs, errors[-1].relative_l2


def measure(worker, case, threads, budget_s, standard=False):
    """Medians of alternating launches: ours, the best formulation of the peer."""
    error, flops, kv_bytes, *name = worker.case(threads, case)
    torch.set_num_threads(threads)
    runs, peer_error = peer_runs(case, standard)
    work = float(kv_bytes if case.phase == "decode" else flops)

    def ours():
        ceiling, seconds = worker.sample(), float(worker.ask("run")[0])
        return {"": seconds, "ceiling": ceiling, "share": work / seconds / ceiling}

    def timed(run):
        return lambda: {"": peers.seconds_of(run, "cpu")}

    named = {f"peer{i}": timed(run) for i, run in enumerate(runs)}
    samples = alternate({"ours": ours, **named}, budget_s=budget_s, least=5, most=200, warm=0)
    return dict(name=" ".join(name) + f" threads={threads}", error=float(error),
                peer_error=peer_error, ours=work / samples.median("ours"),
                peer=work / min(samples.median(peer) for peer in named),
                ceiling=samples.median("ours.ceiling"), of_ceiling=samples.median("ours.share"))


def keep(rows, case, result, peer):
    decode = case.phase == "decode"
    rows.add(result["name"], "kv_read_rate" if decode else "flop_rate",
             "GB/s" if decode else "GFLOP/s", result["ours"] / 1e9, peer=result["peer"] / 1e9,
             peer_name=peer, ratio=result["ours"] / result["peer"],
             ceiling=result["ceiling"] / 1e9, of_ceiling=result["of_ceiling"])
    return rows.rows[-1]


def saving(program, case):
    """Peak bytes: ours, and standard attention's in a process of its own."""
    worker = Worker(program)
    peak = memory.Peak(worker=worker.pid)
    peak.begin()
    worker.case(1, case)
    ours = peak.end()["worker"]
    worker.close()
    return ours, memory.in_child(case, "standard", "cpu", 1)["process"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path,
                        default=ROOT / "build/release/bench/bin/attention_bench")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--budget_s", type=float, default=2.0, help="seconds a case")
    parser.add_argument("--only", default="", help="cases whose description contains this")
    args = parser.parse_args()
    torch.manual_seed(0)

    command = "tests/bench/attention_vs_torch_bench.py"
    head = report.make_head("cpu", command, program=args.program.name)
    rows = report.Report(head, args.json, bench="attention_vs_torch")
    worker = Worker(args.program)
    cpus = len(os.sched_getaffinity(0))
    with torch.inference_mode(), peers.sdpa_context("f32", "cpu"):
        for threads in sorted({1, min(2, cpus)}):
            print(f"\n{'case':<52} {'ours':>8} {'torch':>8} {'ratio':>6} {'ceiling':>8} "
                  f"{'of it':>6} {'error':>8} {'torch':>8}")
            for case in [*prefill_cases(args.quick), *decode_cases(args.quick)]:
                if args.only not in f"{case.phase} {case.dtype} d={case.dim} n={case.tokens}":
                    continue
                result = measure(worker, case, threads, args.budget_s)
                row = keep(rows, case, result, FLASH)
                print(f"{row['case']:<52} {row['ours']:8.1f} {row['peer']:8.1f} "
                      f"{row['ratio']:6.2f} {row['ceiling']:8.1f} {row['of_ceiling']:6.2f} "
                      f"{result['error']:8.1e} {result['peer_error']:8.1e}", flush=True)
        for threads in sorted({1, min(2, cpus)}):
            print(f"\n{'beside standard attention':<52} {'claim':>8} {'measured':>8} "
                  f"{'ceiling':>8}")
            for claim, case in standard_cases():
                if args.only not in f"standard n={case.tokens}":
                    continue
                result = measure(worker, case, threads, args.budget_s, standard=True)
                row = keep(rows, case, result, STANDARD)
                print(f"{row['case']:<52} {claim:8.1f} {row['ratio']:8.2f} "
                      f"{result['ceiling'] / result['peer']:8.2f}", flush=True)
    worker.close()
    if args.only in "memory":
        print(f"\n{'peak memory, MiB':<52} {'ours':>8} {'torch':>8} {'claim':>8} "
              f"{'measured':>8} {'ceiling':>8}")
        for case in (Case.prefill("f32", tokens, False) for tokens in cases.MEMORY_TOKENS):
            if case.standard_bytes > memory.available_bytes("cpu"):
                print(f"{case}: left out, standard attention needs {case.standard_bytes >> 20} MiB")
                continue
            ours, peer = saving(args.program, case)
            ceiling = 1 - case.tensor_bytes / peer
            rows.add(case, "peak_memory", "MiB", ours / 2**20, peer=peer / 2**20,
                     peer_name=STANDARD, ratio=1 - ours / peer, ceiling=ceiling,
                     of_ceiling=(1 - ours / peer) / ceiling)
            print(f"{case!s:<52} {ours / 2**20:8.1f} {peer / 2**20:8.1f} "
                  f"{cases.claimed_saving(case.tokens):8.2f} {1 - ours / peer:8.2f} "
                  f"{ceiling:8.2f}", flush=True)
    rows.save()


if __name__ == "__main__":
    main()
