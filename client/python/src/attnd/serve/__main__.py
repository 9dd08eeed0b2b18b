# SPDX-License-Identifier: Apache-2.0
"""Starts `transformers serve` with attention and the KV cache in attnd.

    python -m attnd.serve HuggingFaceTB/SmolLM2-135M-Instruct --port 8000
    python -m attnd.serve MODEL --attnd unix:/run/attnd.sock --host 0.0.0.0 --dtype bfloat16

Everything that is not a flag of this launcher goes to `transformers serve` as it is. Several such
servers may share one daemon: each has its own sequences, and the pages of common prefixes (a system
prompt, the turns of a chat so far) are computed once for all of them. A server that dies leaves
nothing behind: its session's lease ends, the published pages stay until they are evicted.

Exit code 2: a flag is wrong, or no daemon answers. Otherwise what `transformers serve` exits with.
"""

from __future__ import annotations

import argparse
import os
import sys

from attnd.credentials import Credentials

# PyTorch's threads must not spin on the cores that the daemon computes on.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_TAKEN = {
    "--attn-implementation": "attnd is the attention implementation",
    "--continuous-batching": "transformers' continuous batching keeps a paged cache of its own",
    "--compile": "torch.compile wants a static cache in this process; attnd's is the daemon's",
}


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The launcher's own flags, and the arguments of `transformers serve`."""
    parser = argparse.ArgumentParser(
        prog="attnd.serve",
        description=(__doc__ or "").splitlines()[0],
        epilog="All other arguments are those of `transformers serve`.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--attnd",
        metavar="ADDRESS",
        help='the daemon, "unix:/path/to/socket" or "host:port"; default: $ATTND_ADDRESS, or a '
        "daemon of this process's own",
    )
    parser.add_argument(
        "--no-prefix-reuse",
        action="store_true",
        help="neither publish the pages of prompts nor take those of others",
    )
    Credentials.add_arguments(parser)
    own, rest = parser.parse_known_args(arguments)
    for argument in rest:
        why = _TAKEN.get(argument.split("=", 1)[0])
        if why:
            parser.error(f"{argument}: not with attnd: {why}")
    return own, rest


def main() -> int:
    """Connects, registers attnd, and hands over to `transformers serve`."""
    own, rest = parse(sys.argv[1:])
    import attnd

    try:
        client = attnd.connect(own.attnd, credentials=Credentials.from_arguments(own))
        capabilities = client.capabilities()
    except attnd.AttndError as error:
        print(f"attnd.serve: {error}", file=sys.stderr)
        return 2
    try:
        from transformers.utils.import_utils import is_serve_available
    except ImportError as error:
        print(f"attnd.serve: {error}: pip install 'attnd[serve]'", file=sys.stderr)
        return 2
    if not is_serve_available():
        print(
            "attnd.serve: fastapi, uvicorn or openai is missing: pip install 'attnd[serve]'",
            file=sys.stderr,
        )
        return 2
    print(
        f"attnd.serve: attention by attnd {capabilities.version} at {client.address} "
        f"({capabilities.backend}, {capabilities.device})",
        file=sys.stderr,
        flush=True,
    )
    from attnd.serve.models import serve_models_with

    serve_models_with(client, reuse_prefix=not own.no_prefix_reuse)

    from transformers.cli.transformers import app

    app(["serve", *rest], prog_name="transformers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
