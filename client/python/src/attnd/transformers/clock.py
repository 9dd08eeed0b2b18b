# SPDX-License-Identifier: Apache-2.0
"""Where the time of attention went."""

from __future__ import annotations

from dataclasses import dataclass

from attnd.attention import Timing


@dataclass(slots=True)
class AttentionClock:
    """Where the time of all Attend calls went, in nanoseconds."""

    calls: int = 0
    wall_ns: int = 0  # in this process, from the tensors to the tensors
    stage_in_ns: int = 0  # inside the daemon, and the three after it
    queue_ns: int = 0
    kernel_ns: int = 0
    stage_out_ns: int = 0

    @property
    def daemon_ns(self) -> int:
        """Inside the daemon altogether."""
        return self.stage_in_ns + self.queue_ns + self.kernel_ns + self.stage_out_ns

    def count(self, timing: Timing) -> None:
        """Adds one call's part inside the daemon."""
        self.calls += 1
        self.stage_in_ns += timing.stage_in_ns
        self.queue_ns += timing.queue_ns
        self.kernel_ns += timing.kernel_ns
        self.stage_out_ns += timing.stage_out_ns
