# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates for tests, made by the `openssl` program when the tests run: none is kept."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
new_certs_dir = {folder}
database = {folder}/{name}.index
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[leaf]
basicConstraints = critical,CA:FALSE
subjectAltName = {names}
"""


@dataclass(frozen=True)
class Certificate:
    """A pair of PEM files."""

    cert: Path
    key: Path


def make_ca(folder: Path, name: str) -> Certificate:
    """One that may sign others."""
    ca = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl("req", "-x509", *_new_key(ca, name), "-out", ca.cert, "-days", "2")
    return ca


def make_certificate(
    folder: Path,
    name: str,
    issuer: Certificate,
    *,
    names: str = "IP:127.0.0.1",
    begins: timedelta = -timedelta(hours=1),
    ends: timedelta = timedelta(days=1),
) -> Certificate:
    """One for `names` ("DNS:...,IP:..."), valid between these times from now."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    config = folder / f"{name}.cnf"
    config.write_text(_CONFIG.format(folder=folder, name=name, names=names))
    (folder / f"{name}.index").write_text("")
    request = folder / f"{name}.csr"
    _openssl("req", *_new_key(made, name), "-out", request)
    now = datetime.now(UTC)
    _openssl(
        "ca",
        "-batch",
        "-notext",
        *("-config", config, "-extensions", "leaf"),
        *("-cert", issuer.cert, "-keyfile", issuer.key),
        *("-in", request, "-out", made.cert),
        *("-startdate", f"{now + begins:%Y%m%d%H%M%SZ}"),
        *("-enddate", f"{now + ends:%Y%m%d%H%M%SZ}"),
    )
    return made


def _new_key(made: Certificate, name: str) -> list[object]:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    return [*curve, "-keyout", made.key, "-subj", f"/CN={name}"]


def _openssl(*arguments: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
