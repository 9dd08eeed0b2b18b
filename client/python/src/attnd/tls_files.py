# SPDX-License-Identifier: Apache-2.0
"""Certificates, keys and token files: what is wrong with them, before a handshake fails.

Each message begins with the option and names the file; none has a part of a secret in it. Who may
read a secret: its owner and its group, as mounted secrets want it, and nobody else.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime

from attnd.errors import InvalidArgument

_MAX_BYTES = 1 << 20
_TOO_OPEN = stat.S_IWGRP | stat.S_IRWXO
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def read_file(what: str, path: str, *, secret: bool = False) -> bytes:
    """The content of a small file.

    Args:
        what: the option that named it.
        secret: others must not be able to read it.

    Raises:
        InvalidArgument: it cannot be read, is too large, or is open to others.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if secret:
                check_secret_mode(what, path, mode)
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(f"{what}: cannot read {path}: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise InvalidArgument(f"{what}: {path} is larger than {_MAX_BYTES} bytes: is it the file?")
    return content


def check_secret_mode(what: str, path: str, mode: int) -> None:
    """Passes where only the owner, and for reading the group, may use a file of this mode."""
    if mode & _TOO_OPEN:
        why = "every user may read it" if mode & stat.S_IROTH else "others may change it"
        raise InvalidArgument(
            f"{what}: {path} has mode {stat.S_IMODE(mode):04o}: {why}, expected at most 0640 "
            f"(chmod 600 {path})"
        )


@dataclass(frozen=True, slots=True)
class Validity:
    """Of a certificate, in UTC."""

    not_before: datetime
    not_after: datetime

    def problem(self, now: datetime) -> str:
        """Why it is not valid now; "" where it is."""
        if now > self.not_after:
            return f"expired on {self.not_after:%Y-%m-%d %H:%M:%S} UTC, and now is {_utc(now)}"
        if now < self.not_before:
            return (
                f"is valid from {self.not_before:%Y-%m-%d %H:%M:%S} UTC on, and now is "
                f"{_utc(now)}: is the clock right?"
            )
        return ""


def validities(what: str, path: str, pem: bytes) -> list[Validity]:
    """Of all certificates of a PEM text, in their order.

    Raises:
        InvalidArgument: there is none, or one is malformed.
    """
    found: list[Validity] = []
    for block in _PEM.findall(pem):
        try:
            found.append(_validity(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))))
        except (ValueError, IndexError) as error:
            raise InvalidArgument(
                f"{what}: {path}: certificate {len(found) + 1} is malformed: {error}"
            ) from None
    if not found:
        raise InvalidArgument(
            f"{what}: {path}: no certificate in it, expected PEM (-----BEGIN CERTIFICATE-----)"
        )
    return found


def check_ca(what: str, path: str, pem: bytes) -> None:
    """Passes where one certificate of a bundle is valid now: old ones may be left in it."""
    now = datetime.now(UTC)
    problems = [validity.problem(now) for validity in validities(what, path, pem)]
    if all(problems):
        raise InvalidArgument(f"{what}: {path}: the certificate {problems[0]}")


def check_chain(what: str, path: str, pem: bytes) -> None:
    """Passes where the first certificate, one's own, is valid now."""
    if problem := validities(what, path, pem)[0].problem(datetime.now(UTC)):
        raise InvalidArgument(f"{what}: {path}: the certificate {problem}")


def check_key(what: str, path: str, cert_path: str) -> None:
    """Passes where a file has a private key, without a passphrase, of the certificate there.

    Raises:
        InvalidArgument: it has none, an encrypted one, or that of another certificate.
    """
    asked = []

    def passphrase() -> str:  # Without it, OpenSSL asks the terminal.
        asked.append(True)
        return ""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cert_path, path, passphrase)
    except (OSError, ValueError) as error:
        if asked:
            why = "the key is encrypted, expected one without a passphrase"
        elif getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            why = f"the key is not that of the certificate in {cert_path}"
        else:
            why = "no private key in it, expected PEM (-----BEGIN PRIVATE KEY-----)"
        raise InvalidArgument(f"{what}: {path}: {why}") from None


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _validity(der: bytes) -> Validity:
    """Of a certificate: RFC 5280, 4.1. Raises ValueError or IndexError where it is none."""
    certificate, _ = _content(der, 0, _SEQUENCE)
    body, _ = _content(certificate, 0, _SEQUENCE)
    position = 0
    if body[0] == _VERSION:
        _, position = _content(body, 0, _VERSION)
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, position = _content(body, position, body[position])
    dates, _ = _content(body, position, _SEQUENCE)
    not_before, position = _time(dates, 0)
    not_after, _ = _time(dates, position)
    return Validity(not_before, not_after)


def _content(der: bytes, position: int, tag: int) -> tuple[bytes, int]:
    """What an element at `position` contains, and where it ends."""
    if der[position] != tag:
        raise ValueError(f"tag {der[position]:#x} at byte {position}, expected {tag:#x}")
    size = der[position + 1]
    begin = position + 2
    if size & 0x80:
        count = size & 0x7F
        size = int.from_bytes(der[begin : begin + count])
        begin += count
    end = begin + size
    if end > len(der):
        raise ValueError("it ends early")
    return der[begin:end], end


def _time(der: bytes, position: int) -> tuple[datetime, int]:
    tag = der[position]
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError(f"tag {tag:#x} where a time belongs")
    content, end = _content(der, position, tag)
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # Two digits of the year; RFC 5280 has the century.
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), end
