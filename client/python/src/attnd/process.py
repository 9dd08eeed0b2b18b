# SPDX-License-Identifier: Apache-2.0
"""Handles belong to the process that made them: not to its forks, and not into a pickle.

A fork copies the memory of a gRPC connection but none of its threads, and leaves both processes
with one socket. A handle that was carried along therefore refuses to work in the child, at once and
saying what to do; closing it there does nothing, since the connection and the session are the
parent's, which goes on undisturbed. The threads that renew leases do not run in a child: no thread
survives a fork but the one that called it.

A new client in the child works where no other thread was inside gRPC when the process forked; gRPC
skips its own preparations otherwise (and logs "skipping fork() handlers"), and connecting may then
time out. A process that calls from many threads starts its children by "spawn" or "forkserver".
"""

from __future__ import annotations

import os
from typing import NoReturn

from attnd.errors import ForkedProcess


class ProcessBound:
    """What remembers its process. `noun` is what the messages call it."""

    noun = "the handle"

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked copy, the original being another process's."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        """Passes in the process that made this.

        Raises:
            ForkedProcess: in every other one.
        """
        if self.inherited:
            raise ForkedProcess(
                f"{self.noun} was made in process {self._pid} and is used in process "
                f"{os.getpid()}, a fork of it: connections do not survive a fork. Make a new "
                "attnd.Client here (with multiprocessing or DataLoader: in the worker, not before "
                'it starts), or start processes by the "spawn" method; a session is taken over by '
                "resume_session with its token"
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: got pickled, expected to stay in process {self._pid}: pass "
            "the address on, and make a new attnd.Client there"
        )
