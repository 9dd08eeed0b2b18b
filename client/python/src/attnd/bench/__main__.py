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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# PyTorch's OpenMP threads spin between its operators, on the cores on which the daemon computes
# then. OpenBLAS, where PyTorch uses it, takes some CPUs for others when these two are set.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)

from attnd.bench import cases
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
    return _run(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(
        prog="attnd.bench",
        description=text[0],
        epilog="\n".join(text[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--address",
        help="of a daemon that runs (default: $ATTND_ADDRESS, else one is started); memory is "
        "measured on fresh ones",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows go")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draws into it, as `plot` does")
    parser.add_argument("--quick", action="store_true", help="fewer lengths, less time each")
    parser.add_argument(
        "--cases",
        type=_names(cases.GROUPS),
        default=cases.GROUPS,
        metavar="LIST",
        help=f"of {','.join(cases.GROUPS)} (default: all)",
    )
    parser.add_argument(
        "--dtypes",
        type=_names(tuple(cases.ELEMENT_BYTES)),
        metavar="LIST",
        help="of the speed-up tables (default: f32; with --device cuda f32,f16)",
    )
    parser.add_argument(
        "--tokens", type=_lengths, metavar="LIST", help="the lengths of every group of --cases"
    )
    parser.add_argument("--budget_s", type=float, help="seconds to time a case (default: 4, 0.5)")
    parser.add_argument("--threads", type=int, help="PyTorch's and the daemon's (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    return parser


def _names(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(
                    f"got {name!r}, expected some of {','.join(allowed)}"
                )
        return names

    return parse


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 2 or max(lengths) > 131072:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected lengths of 2 to 131072 tokens")
    return lengths


def _run(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    args = parser.parse_args(argv)
    cpus = len(os.sched_getaffinity(0))
    threads = cpus if args.threads is None else args.threads
    if not 1 <= threads <= cpus:
        parser.error(f"--threads: got {threads}, expected 1 to {cpus}")
    budget_s = args.budget_s if args.budget_s is not None else 0.5 if args.quick else 4.0
    if not budget_s >= 0:
        parser.error(f"--budget_s: got {budget_s}, expected at least 0")
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
    from attnd.bench.runs import Runner

    torch.manual_seed(args.seed)
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    plan = _plan_of(args, threads, budget_s)
    try:
        with _client(args.address, args.device, threads) as client:
            about = client.capabilities()
            name = f"attnd {about.version}, {about.backend}, {about.isa}, {about.device}"
            head = make_head(args.device, "python -m attnd.bench", threads=threads, daemon=name)
            report = Report(head, args.json)
            Runner(plan, client, Ceilings(args.device, threads), report).run()
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
def _client(address: str | None, device: str, threads: int) -> Iterator[Client]:
    """Of the daemon at `address` or $ATTND_ADDRESS; else of one of our own.

    `attnd.connect()` would choose the same, but not that one's device and threads.
    """
    from attnd import Client
    from attnd.bench.served import fresh_daemon

    address = address or os.environ.get("ATTND_ADDRESS")
    if address:
        with Client(address, timeout_s=_CALL_TIMEOUT_S) as client:
            yield client
        return
    daemon = fresh_daemon(device, threads)
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
        type=_names(("png", "svg")),
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
