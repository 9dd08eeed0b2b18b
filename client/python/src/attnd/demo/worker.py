# SPDX-License-Identifier: Apache-2.0
"""The clients that the demo kills and starts anew. They talk in JSON lines on standard output.

python -m attnd.demo.worker generate --address A --model DIR    prints its session token first
python -m attnd.demo.worker resume --address A --model DIR      reads the token from its input
"""

from __future__ import annotations

import argparse
import json
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # See __main__.py.
os.environ.setdefault("TQDM_DISABLE", "1")

from pathlib import Path
from typing import Any

from attnd import Client, Credentials
from attnd.demo import generation, model
from attnd.transformers import register, resume


def say(**values: Any) -> None:
    """One message to the demo."""
    print(json.dumps(values), flush=True)


def generate(client: Client, language_model: Any, tokenizer: Any, new_tokens: int) -> None:
    """Begins all answers, and is killed before they are finished."""
    session = client.open_session(lease_s=120, label="demo: the client that is killed")
    say(token=session.token.hex())
    generation.generate_with_attnd(
        language_model,
        generation.encode(tokenizer),
        new_tokens,
        session,
        lambda count: say(tokens=count),
    )
    say(finished=True)


def take_up(client: Client, language_model: Any, token: bytes) -> None:
    """Finishes what the other client began, knowing its address and its token."""
    resumed = resume(client, token)
    restarts = list(resumed.cache.lengths)
    say(
        restarts=restarts,
        prompt_lengths=[state.prompt_length for state in resumed.states],
        found=[len(state.ids) - state.prompt_length for state in resumed.states],
        layers_ahead=[
            sum(length > restart for length in sequence.info.layer_lengths)
            for sequence, restart in zip(resumed.cache.sequences, restarts, strict=True)
            if sequence.info is not None
        ],
    )
    answers = generation.finish(language_model, resumed, lambda count: say(tokens=count))
    say(answers=answers, written=sum(resumed.cache.lengths) - sum(restarts))
    resumed.session.close()


def main() -> None:
    """Parses the flags."""
    parser = argparse.ArgumentParser(prog="attnd.demo.worker")
    parser.add_argument("part", choices=["generate", "resume"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--new_tokens", type=int, default=64)
    Credentials.add_arguments(parser)
    args = parser.parse_args()
    register()
    language_model, tokenizer = model.load(args.model, "attnd")
    with Client(args.address, credentials=Credentials.from_arguments(args)) as client:
        if args.part == "generate":
            generate(client, language_model, tokenizer, args.new_tokens)
        else:
            take_up(client, language_model, bytes.fromhex(sys.stdin.readline().strip()))


if __name__ == "__main__":
    main()
