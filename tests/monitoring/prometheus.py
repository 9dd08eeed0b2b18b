# SPDX-License-Identifier: Apache-2.0
"""A Prometheus that scrapes a daemon each second, with this repository's own configuration.

with Prometheus(folder, target="127.0.0.1:7451") as prometheus:
    prometheus.wait_for('up{job="attnd"} == 1')
    series = prometheus.query_range("rate(attnd_launches_total[10s])", start, end)
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CONFIGURATION = REPOSITORY / "deploy" / "prometheus" / "prometheus.yml"
TIMEOUT_S = 60


class QueryError(AssertionError):
    """Prometheus refused an expression."""


def configuration(target: str) -> dict[str, Any]:
    """The committed configuration, with another target and a second's intervals."""
    config: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    config["global"] = {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "1s",
    }
    folder = CONFIGURATION.parent
    config["rule_files"] = [str(folder / pattern) for pattern in config["rule_files"]]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    jobs["attnd"]["static_configs"] = [{"targets": [target]}]
    config["scrape_configs"] = [jobs["attnd"]]
    return config


class Prometheus:
    """The process; `with` ends it. Its log is FOLDER/prometheus.log."""

    def __init__(self, folder: Path, target: str) -> None:
        self._log = folder / "prometheus.log"
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration(target)))
        self.started = time.time()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={file}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url = ""

    def __enter__(self) -> Prometheus:
        def answers() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(f"Prometheus did not start:\n{self._log.read_text()}")
            address = re.search(r'msg="Listening on" address=(\S+)', self._log.read_text())
            if not address:
                return False
            self.url = f"http://{address.group(1)}"
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=TIMEOUT_S) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        try:
            wait_until(answers, f"Prometheus is ready, see {self._log}")
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def get(self, path: str, **parameters: str) -> Any:
        """The field `data` of an answer of the HTTP API.

        Raises:
            QueryError: with Prometheus' words, where it says that the query is wrong.
        """
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        result = self.get("query", query=expr)
        series: list[dict[str, Any]] = result["result"]
        return series if result["resultType"] == "vector" else [{"metric": {}, "value": series}]

    def query_range(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """The series that it had, second by second; points that are NaN are left out."""
        result = self.get("query_range", query=expr, start=f"{start}", end=f"{end}", step="1")
        found = []
        for series in result["result"]:
            values = [(at, float(value)) for at, value in series["values"]]
            values = [(at, value) for at, value in values if value == value]
            if values:
                found.append({"metric": series["metric"], "values": values})
        return found

    def wait_for(self, expr: str) -> list[dict[str, Any]]:
        """Its series, as soon as it has any."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = self.query(expr)
            return bool(found)

        wait_until(there, expr)
        return found


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Asks for it ten times a second.

    Raises:
        TimeoutError: naming `what`.
    """
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout_s:g} s still not: {what}")
        pause.wait(0.1)
