# SPDX-License-Identifier: Apache-2.0
"""What the test with a real Prometheus cannot see, each with its reason."""

from __future__ import annotations

# Metrics that no daemon on a CPU has. Their queries must be accepted, and the names catalogued.
NOT_ON_A_CPU = {
    "attnd_device_temperature_celsius": "a sensor of GPUs",
    "attnd_device_power_watts": "a sensor of GPUs",
}

# Alerts on events that nothing can bring about from outside of a daemon that works: (what to
# replace in the expression, by what), so that all the rest of it is seen to have data.
NOT_FROM_OUTSIDE = {
    "AttndInternalErrors": ('code=~"INTERNAL|UNKNOWN"', 'code=~".+"'),
    "AttndInternalItemErrors": ('code=~"INTERNAL|UNKNOWN"', 'code=~".+"'),
    "AttndDataLoss": ('code="DATA_LOSS"', 'code=~".+"'),
}

# Metrics and labels of the catalogue that the daemon does not have yet. A name that it has is an
# error here: take it out.
PENDING_METRICS: set[str] = set()
PENDING_LABELS: set[tuple[str, str]] = set()
