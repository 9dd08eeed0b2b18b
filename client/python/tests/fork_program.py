# SPDX-License-Identifier: Apache-2.0
"""A program that forks while it holds a client and a session; test_fork.py runs it.

    python fork_program.py ADDRESS os|multiprocessing

Its last line says what the child saw and what the parent could do meanwhile. Both processes end the
ordinary way, so that whatever hangs at exit hangs here.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable

import attnd


def outcome(use: Callable[[], object]) -> str:
    try:
        use()
    except attnd.AttndError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def in_child(client: attnd.Client, session: attnd.Session, sequence: attnd.Sequence) -> dict:
    seen = {
        "stats": outcome(client.stats),
        "capabilities": outcome(client.capabilities),
        "open_session": outcome(client.open_session),
        "create_sequence": outcome(lambda: session.create_sequence(sequence.cache)),
        "renew": outcome(session.renew),
        "release": outcome(session.release),
        "describe": outcome(sequence.describe),
        "session.close": outcome(session.close),
        "client.close": outcome(client.close),
    }
    seen["threads"] = sorted(
        thread.name for thread in threading.enumerate() if thread.name.startswith("attnd")
    )
    return seen


def own_client(address: str) -> dict:
    with attnd.Client(address, timeout_s=20) as own, own.open_session() as mine:
        return {"epoch": mine.epoch}


def fork_by_os(use: Callable[[], dict]) -> dict | None:
    """What the child saw; None in the child itself."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            json.dump(use(), pipe)
        return None
    os.close(write)
    with os.fdopen(read) as pipe:
        seen = json.load(pipe)
    seen["exit"] = os.waitpid(pid, 0)[1]
    return seen


def fork_by_multiprocessing(use: Callable[[], dict]) -> dict:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(use()))
    child.start()
    seen = answers.get()
    child.join()
    seen["exit"] = child.exitcode
    return seen


def main() -> None:
    address, how = sys.argv[1:]
    client = attnd.Client(address, timeout_s=20)
    client.capabilities()
    cache = client.open_cache(
        "fork", num_layers=1, num_query_heads=1, num_kv_heads=1, head_dim=32, page_size_tokens=8
    )
    fork = fork_by_os if how == "os" else fork_by_multiprocessing
    # gRPC makes new connections possible in a child where no thread is inside it at the fork.
    own = fork(lambda: own_client(address))
    if own is None:
        return
    # A short lease: its thread is at work, in gRPC too, while the process forks.
    session = client.open_session(lease_s=1.0)
    sequence = session.create_sequence(cache)
    stop, calls, failures = threading.Event(), [0], []

    def keep_calling() -> None:
        while not stop.is_set():
            try:
                sequence.describe()
                calls[0] += 1
            except attnd.AttndError as error:
                failures.append(repr(error))
                return

    caller = threading.Thread(target=keep_calling)
    caller.start()
    with client, session:
        seen = fork(lambda: in_child(client, session, sequence))
        if seen is None:
            return  # The child, through both __exit__ and the end of the interpreter.
        before = calls[0]
        while calls[0] < before + 3 and not failures:
            pass
        stop.set()
        caller.join()
        seen["parent failures"] = failures
        seen["own"] = own
        session.renew()
        sequence.describe()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
