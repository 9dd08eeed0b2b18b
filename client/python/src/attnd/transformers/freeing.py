# SPDX-License-Identifier: Apache-2.0
"""Frees what an object held in the daemon, once nobody holds the object.

A finalizer may run anywhere, in the midst of another call of the same client too, so it only puts
the handles on a queue whose `put` may be re-entered; one thread of the process makes the calls.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Sequence as Seq
from queue import SimpleQueue

from attnd.errors import AttndError
from attnd.sequence import Sequence
from attnd.session import Session

_queue: SimpleQueue[Sequence | Session | threading.Event] = SimpleQueue()
_worker: threading.Thread | None = None


def when_gone(owner: object, handles: Seq[Sequence | Session]) -> None:
    """Frees the sequences and closes the sessions of `handles` when `owner` is collected.

    The list is read then, so that the owner may change it as long as it lives. At the exit of the
    process nothing is done: the daemon sees to it when the lease ends.
    """
    _start()
    weakref.finalize(owner, _hand_over, os.getpid(), handles).atexit = False


def wait_until_freed(timeout_s: float | None = None) -> bool:
    """Waits until what went away before this call is freed in the daemon, too.

    Returns:
        Whether that was done in time.
    """
    _start()
    done = threading.Event()
    _queue.put(done)
    return done.wait(timeout_s)


def _hand_over(process: int, handles: Seq[Sequence | Session]) -> None:
    if process == os.getpid():  # A forked copy is gone, but its handles are the parent's.
        for handle in handles:
            _queue.put(handle)


def _start() -> None:
    """Starts the thread; anew after a fork, which it does not survive."""
    global _worker
    if _worker is None or not _worker.is_alive():
        _worker = threading.Thread(target=_work, name="attnd-freeing", daemon=True)
        _worker.start()


def _work() -> None:
    while True:
        handle = _queue.get()
        if isinstance(handle, threading.Event):
            handle.set()
            continue
        # What cannot be freed any more is gone already, or ends with its session's lease.
        # ValueError: the channel was closed.
        with contextlib.suppress(AttndError, ValueError):
            if isinstance(handle, Sequence):
                handle.free()
            else:
                handle.close()
        del handle
