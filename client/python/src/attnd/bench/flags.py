# SPDX-License-Identifier: Apache-2.0
"""The flags of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from attnd.bench import cases
from attnd.credentials import Credentials


def parser(text: list[str]) -> argparse.ArgumentParser:
    """All flags of a run; `text` is the program's help, line by line."""
    flags = argparse.ArgumentParser(
        prog="attnd.bench",
        description=text[0],
        epilog="\n".join(text[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags.add_argument(
        "--address",
        help="of a daemon that runs (default: $ATTND_ADDRESS, else one is started); memory is "
        "measured on fresh ones",
    )
    flags.add_argument("--json", type=Path, metavar="FILE", help="where the rows go")
    flags.add_argument("--plots", type=Path, metavar="DIR", help="draws into it, as `plot` does")
    flags.add_argument("--quick", action="store_true", help="fewer lengths, less time each")
    flags.add_argument(
        "--cases",
        type=names(cases.GROUPS),
        default=cases.GROUPS,
        metavar="LIST",
        help=f"of {','.join(cases.GROUPS)} (default: all)",
    )
    flags.add_argument(
        "--dtypes",
        type=names(tuple(cases.ELEMENT_BYTES)),
        metavar="LIST",
        help="of the speed-up tables (default: f32; with --device cuda f32,f16)",
    )
    flags.add_argument(
        "--tokens", type=lengths, metavar="LIST", help="the lengths of every group of --cases"
    )
    flags.add_argument("--budget_s", type=float, help="seconds to time a case (default: 4, 0.5)")
    flags.add_argument(
        "--passes",
        type=int,
        default=1,
        help="over all that is timed; of each case the one with the highest ceiling is kept, when "
        "the machine was disturbed least",
    )
    flags.add_argument("--threads", type=int, help="PyTorch's and the daemon's (default: all)")
    flags.add_argument("--seed", type=int, default=0, help="of the inputs")
    Credentials.add_arguments(flags)
    return flags


def names(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """What parses a list of some of `allowed`, with commas."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(
                    f"got {name!r}, expected some of {','.join(allowed)}"
                )
        return chosen

    return parse


def lengths(text: str) -> tuple[int, ...]:
    """A list of lengths in tokens, with commas."""
    try:
        tokens = tuple(int(part) for part in text.split(","))
    except ValueError:
        tokens = ()
    if not tokens or min(tokens) < 2 or max(tokens) > 131072:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected lengths of 2 to 131072 tokens")
    return tokens
