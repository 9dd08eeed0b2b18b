# SPDX-License-Identifier: Apache-2.0
"""One run of a daemon under load and a Prometheus that watches it, for all tests of it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
CLIENT = REPOSITORY / "client" / "python"
sys.path[:0] = [str(CLIENT / "src"), str(HERE), str(REPOSITORY / "deploy" / "grafana")]
subprocess.run([sys.executable, str(CLIENT / "generate_protos.py")], check=True)

import attnd  # noqa: E402
from daemon import Daemon  # noqa: E402
from exceptions import NOT_ON_A_CPU, PENDING_METRICS  # noqa: E402
from expressions import examples, metrics_of, panel_queries, rules  # noqa: E402
from load import HEADS, TENANTS, Load, rows  # noqa: E402
from prometheus import Prometheus, wait_until  # noqa: E402

# Alerts whose condition the load makes true, so that their expressions are seen to find what they
# are there to find. (Whether they fire is a matter of `for`, which the unit tests have.)
MADE_TRUE = (
    "AttndPoolNearlyFull",
    "AttndOutOfPages",
    "AttndPrefixEvictions",
    "AttndRefusing",
    "AttndRequestErrors",
    "AttndItemErrors",
    "AttndControlErrors",
    "AttndSessionsLeaking",
    "AttndTenantNearLimit",
    "AttndTenantRefused",
    "AttndUnauthenticatedCalls",
    "AttndCertificateExpiring",
    "AttndCertificateExpired",
)
# Those that other things make true.
MADE_TRUE_OTHERWISE = ("AttndAbsent", "AttndReloadFailed", "AttndDrainedAndLeft", "AttndDown")


@dataclass(frozen=True)
class Watched:
    """What there is to ask when all is over."""

    prometheus: Prometheus
    start: float
    end: float
    scrape: str  # /metrics at the end of the load

    def series(self, expr: str) -> list[dict[str, object]]:
        """What an expression had at any second of the run."""
        return self.prometheus.query_range(expr, self.start, self.end)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Short: a socket's name has 107 characters."""
    with tempfile.TemporaryDirectory(prefix="attnd-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def watched(folder: Path) -> Iterator[Watched]:
    """Load, drain, restart and end of a daemon, seen by a Prometheus that stays."""
    expressions = {rule.name: rule.expr for rule in rules()}
    with Daemon(folder) as daemon, Prometheus(folder, daemon.metrics) as prometheus:

        def wait_for_alert(name: str) -> None:
            if not metrics_of(expressions[name]) & PENDING_METRICS:
                prometheus.wait_for(expressions[name])

        prometheus.wait_for('up{job="attnd"} == 1')
        with Load(daemon.connect):
            for name in MADE_TRUE:
                wait_for_alert(name)
            reload(daemon, prometheus)
            wait_for_alert("AttndReloadFailed")
            wait_for_queries(prometheus)
        scrape = daemon.scrape()
        drain(daemon, prometheus)
        wait_for_alert("AttndDrainedAndLeft")
        daemon.restart()
        prometheus.wait_for('resets(process_cpu_seconds_total{job="attnd"}[5m]) > 0')
        daemon.process.terminate()
        wait_until(lambda: daemon.process.poll() is not None, "attnd ends")
        wait_for_alert("AttndDown")
        # Two seconds before the first scrape, and one after the last.
        yield Watched(prometheus, prometheus.started - 2, time.time() + 1, scrape)


def wait_for_queries(prometheus: Prometheus) -> None:
    """Until all have had data, or for half a minute: it is the tests that say which have none."""
    left = [query.as_prometheus() for query in panel_queries()] + examples()
    left += [rule.expr for rule in rules() if not rule.alert]

    def all_seen() -> bool:
        start, now = prometheus.started, time.time()
        left[:] = [expr for expr in left if not prometheus.query_range(expr, start, now)]
        return not left

    left = [expr for expr in left if not metrics_of(expr) & (PENDING_METRICS | set(NOT_ON_A_CPU))]
    with contextlib.suppress(TimeoutError):
        wait_until(all_seen, "every query has data", timeout_s=30)


def reload(daemon: Daemon, prometheus: Prometheus) -> None:
    """Files that change: well, badly, and well again."""

    def seen(what: str, result: str) -> None:
        prometheus.wait_for(f'attnd_reloads_total{{what="{what}",result="{result}"}} > 0')

    daemon.write_tenants("  - {name: chat, tokens: [another-token-of-the-same-name]}\n")
    daemon.certificate.write_text("no certificate")
    for what in ("tenants", "tls"):
        seen(what, "failed")
    daemon.write_tenants()
    daemon.make_certificate()
    for what in ("tenants", "tls"):
        seen(what, "ok")


def drain(daemon: Daemon, prometheus: Prometheus) -> None:
    """Drains it, and tries for more until Prometheus has seen that it was refused."""
    daemon.attnctl("drain")
    with daemon.connect(TENANTS[0], timeout_s=20) as client:
        q = rows(64, HEADS)[None]

        def refused() -> bool:
            try:
                client.flash_attention(q, q, q)
            except attnd.Draining:
                return bool(
                    prometheus.query('attnd_admission_refused_total{reason="draining"} > 0')
                )
            raise AssertionError("a draining daemon took a call")

        wait_until(refused, "Prometheus sees refusals of a draining daemon")
