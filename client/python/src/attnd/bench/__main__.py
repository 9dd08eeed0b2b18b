# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of attention served by attnd, beside PyTorch's, in one run, in alternation.

    python -m attnd.bench --json build/bench/pybench.json --plots build/bench
    python -m attnd.bench --device cuda --json pybench.json
    python -m attnd.bench plot pybench.json --out DIR     # needs matplotlib, and no torch
    python -m attnd.bench table pybench.json              # Markdown, --into PAGE.md too

Every output is compared with fp64 before it is timed. Exit code 0: all was measured. 1: a case
failed or was wrong; the others are in the results. 2: it could not be run, or bad flags.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# PyTorch's OpenMP threads spin between its operators, on the cores on which the daemon computes
# then. OpenBLAS, where PyTorch uses it, takes some CPUs for others when these two are set.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)

from attnd.bench import cases, flags
from attnd.bench.plan import Plan
from attnd.bench.report import BadResults, Results

if TYPE_CHECKING:
    from attnd import Client

_CALL_TIMEOUT_S = 120.0


def main(argv: list[str] | None = None) -> int:
    """Parses the flags and does what they say."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["plot"]:
        return _plot(argv[1:])
    if argv[:1] == ["table"]:
        return _table(argv[1:])
    return _run(flags.parser((__doc__ or "").splitlines()), argv)


def _run(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    args = parser.parse_args(argv)
    cpus = len(os.sched_getaffinity(0))
    threads = cpus if args.threads is None else args.threads
    if not 1 <= threads <= cpus:
        parser.error(f"--threads: got {threads}, expected 1 to {cpus}")
    budget_s = args.budget_s if args.budget_s is not None else 0.5 if args.quick else 4.0
    if not budget_s >= 0:
        parser.error(f"--budget_s: got {budget_s}, expected at least 0")
    if args.passes < 1:
        parser.error(f"--passes: got {args.passes}, expected at least 1")
    try:
        import torch
    except ImportError as error:
        parser.error(f"the benchmarks run PyTorch beside attnd: {error}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: got cuda, but this PyTorch finds no GPU")

    import attnd
    from attnd.bench import tables
    from attnd.bench.ceilings import Ceilings
    from attnd.bench.report import Report, make_head
    from attnd.bench.runs import run

    torch.manual_seed(args.seed)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    plan = _plan_of(args, threads, budget_s)
    try:
        with _client(args, threads) as client:
            about = client.capabilities()
            name = f"attnd {about.version}, {about.backend}, {about.isa}, {about.device}"
            head = make_head(args.device, "python -m attnd.bench", threads=threads, daemon=name)
            report = Report(head, args.json)
            try:  # Now, not after minutes of measuring.
                report.save()
                if args.plots:
                    args.plots.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                parser.error(f"--json, --plots: cannot be written: {error}")
            run(plan, client, Ceilings(args.device, threads), report)
    except attnd.AttndError as error:
        print(f"attnd.bench: could not be run: {error}", file=sys.stderr)
        return 2
    results = Results(report.head, report.rows)
    print(tables.everything(results))
    for failure in report.failures:
        print(f"attnd.bench: FAILED: {failure}", file=sys.stderr)
    drawn = _draw(results, args.plots) if args.plots else 0
    return 1 if report.failures else drawn


@contextlib.contextmanager
def _client(args: argparse.Namespace, threads: int) -> Iterator[Client]:
    """Of the daemon at --address or $ATTND_ADDRESS; else of one of our own.

    `attnd.connect()` would choose the same, but not that one's device and threads.
    """
    from attnd import Client, Credentials
    from attnd.bench.served import fresh_daemon

    address = args.address or os.environ.get("ATTND_ADDRESS")
    if address:
        credentials = Credentials.from_arguments(args)
        with Client(address, timeout_s=_CALL_TIMEOUT_S, credentials=credentials) as client:
            yield client
        return
    daemon = fresh_daemon(args.device, threads)
    with daemon, daemon.connect(timeout_s=_CALL_TIMEOUT_S) as client:
        yield client


def _plan_of(args: argparse.Namespace, threads: int, budget_s: float) -> Plan:

    cuda = args.device == "cuda"
    quick_tokens, quick_decode, quick_memory = (128, 512), (1024,), (1024,)
    tokens = args.tokens or (quick_tokens if args.quick else cases.GUIDE_TOKENS)
    decode = args.tokens or (quick_decode if args.quick else cases.DECODE_TOKENS)
    memory = args.tokens or (quick_memory if args.quick else cases.MEMORY_TOKENS)
    return Plan(
        device=args.device,
        dtypes=args.dtypes or (("f32", "f16") if cuda else ("f32",)),
        tokens=tokens if "speedup" in args.cases else (),
        decode_tokens=decode if "decode" in args.cases else (),
        memory_tokens=memory if "memory" in args.cases else (),
        budget_s=budget_s,
        least_rounds=3 if args.quick else 7,
        passes=args.passes,
        threads=threads,
    )


def _plot(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="attnd.bench plot")
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE.json",
        help="results; more files, gpu_bench.json for one, add their series",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--formats",
        type=flags.names(("png", "svg")),
        default=("png", "svg"),
        metavar="LIST",
        help="default: png,svg",
    )
    args = parser.parse_args(argv)
    try:
        return _draw(Results.load(*args.files), args.out, args.formats)
    except (OSError, BadResults) as error:
        parser.error(str(error))


def _table(argv: list[str]) -> int:
    from attnd.bench import page, tables

    parser = argparse.ArgumentParser(prog="attnd.bench table")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PAGE.md",
        help="replaces what the page has between `<!-- results: DIR -->` and `<!-- end -->`, where "
        "DIR is the file's folder, by the pictures of its images/DIR and the tables",
    )
    args = parser.parse_args(argv)
    try:
        results = Results.load(args.file)
        if args.into is None:
            print(tables.everything(results))
        else:
            page.write_into(args.into, args.file.resolve().parent.name, results)
    except (OSError, BadResults) as error:
        parser.error(str(error))
    return 0


def _draw(results: Results, folder: Path, formats: Sequence[str] = ("png", "svg")) -> int:
    try:
        from attnd.bench import plots
    except ImportError as error:
        print(f"attnd.bench: no plots without matplotlib: {error}", file=sys.stderr)
        return 2
    for path in plots.draw(results, folder, formats):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
