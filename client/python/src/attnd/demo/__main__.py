# SPDX-License-Identifier: Apache-2.0
"""A language model on attnd, its client killed and resumed.

    python -m attnd.demo --address unix:/run/attnd.sock --metrics 127.0.0.1:9464

SmolLM2-135M-Instruct answers four prompts of different lengths as one batch, in fp32 and greedily:
first with transformers' own eager attention, which is the truth to compare with, then with every
attention call of every layer served by the daemon. Then a client process generates the same answers
and is killed in the middle; a new process gets the address and the session token, and finishes.

The last line is for machines. Exit code 0: the tokens are identical and the answers were resumed
without computing one prompt token again. 1: one of them is not so. 2: it could not be run.
"""

from __future__ import annotations

import argparse
import os
import sys

# PyTorch's OpenMP threads spin between its operators, on the cores on which the daemon computes
# attention then. Waiting in the kernel costs microseconds; on 2 cores that something else uses too,
# the spinning cost a factor of six.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import attnd
from attnd.demo import model
from attnd.demo.report import verdict_line
from attnd.demo.run import Demo


def main() -> int:
    """Parses the flags and runs the demo."""
    parser = argparse.ArgumentParser(prog="attnd.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--address", required=True, help='"unix:/path/to/socket" or "host:port"')
    parser.add_argument(
        "--metrics", default="", help="HOST:PORT of the daemon's Prometheus metrics"
    )
    parser.add_argument(
        "--new_tokens", type=int, default=64, help="a prompt (default: %(default)s)"
    )
    parser.add_argument("--model_dir", type=Path, help="keeps the converted model (520 MiB)")
    attnd.Credentials.add_arguments(parser)
    args = parser.parse_args()
    if args.new_tokens < 8:
        parser.error(f"--new_tokens: got {args.new_tokens}, expected at least 8")
    try:
        credentials = attnd.Credentials.from_arguments(args)
        demo = Demo(args.address, args.metrics, args.new_tokens, args.model_dir, credentials)
        outcome = demo.run()
    except (attnd.AttndError, model.ModelMissing, OSError) as error:
        print(f"demo: could not be run: {error}", file=sys.stderr)
        return 2
    print(verdict_line(outcome))
    return 0 if outcome.identical and outcome.resumed else 1


if __name__ == "__main__":
    sys.exit(main())
