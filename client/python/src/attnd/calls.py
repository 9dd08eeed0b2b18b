# SPDX-License-Identifier: Apache-2.0
"""What the client's methods do, written once for threads and for asyncio.

A method that calls the daemon is a coroutine of `ClientCalls`, `SessionCalls` or `SequenceCalls`,
over one coroutine that sends (`_send`). The asyncio handles await it. Those for threads send with a
call that blocks, so that their coroutines never suspend: `run` runs them to the end, with no loop.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a call for threads has waited for an event loop")
