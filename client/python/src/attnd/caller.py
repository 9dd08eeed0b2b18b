# SPDX-License-Identifier: Apache-2.0
"""Credentials at work: channels, the metadata of calls, and what a refusal means.

A token file is read again when it changes, and once more when the daemon refuses its token, so that
tokens are rotated without a restart; while a rotation leaves it missing or malformed, the last good
token stays.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence as Seq
from typing import Any

import grpc
import grpc.aio

from attnd import tls_files
from attnd.credentials import Credentials
from attnd.errors import AttndError, HandshakeFailed, InvalidArgument, Unauthenticated

_MAX_TOKEN_BYTES = 4096
_Stamp = tuple[int, int, int, int]
Metadata = tuple[tuple[str, str], ...] | None


class Caller:
    """Who calls. Thread-safe, without a lock, so that it works in a forked child too.

    Raises:
        InvalidArgument: the token, or its file, is no good.
    """

    def __init__(self, credentials: Credentials | None) -> None:
        if credentials is not None and not isinstance(credentials, Credentials):
            raise TypeError(
                f"credentials: got a {type(credentials).__name__}, expected attnd.Credentials"
            )
        self._credentials = credentials or Credentials()
        self._stamp: _Stamp | None = None
        self._problem = ""
        self._token = self._credentials.token
        if self._token is not None:
            _check_token("token", self._token)
        elif self._credentials.token_file is not None:
            self._read()

    def channel(self, address: str, options: Seq[tuple[str, Any]]) -> grpc.Channel:
        """One for threads. Raises InvalidArgument as `_secure` does."""
        secure, options = self._secure(address, options)
        if secure is None:
            return grpc.insecure_channel(address, options)
        return grpc.secure_channel(address, secure, options)

    def aio_channel(self, address: str, options: Seq[tuple[str, Any]]) -> grpc.aio.Channel:
        """One for the event loop that runs. Raises InvalidArgument as `_secure` does."""
        secure, options = self._secure(address, options)
        if secure is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, secure, options)

    def token(self) -> str | None:
        """To send now."""
        path = self._credentials.token_file
        if path is not None and _stamp(path) != self._stamp:
            self._try_to_read()
        return self._token

    def has_other_than(self, refused: str | None) -> bool:
        """Reads the token's file anew: whether it has another one than `refused`."""
        if self._credentials.token_file is not None:
            self._try_to_read()
        return self._token != refused

    def explain(self, error: AttndError, address: str) -> AttndError:
        """`error`, or a better one: what to check where credentials seem to be at fault."""
        if isinstance(error, Unauthenticated):
            error.args = (f"{error.args[0]} (this client sent {self._described()})",)
        if not error.from_channel:
            return error
        text, final = self._advice(str(error.args[0]), address)
        if final:
            return HandshakeFailed(
                f"TLS handshake failed: {text} ({error.args[0]})",
                method=error.method,
                from_channel=True,
            )
        if text:
            error.args = (f"{error.args[0]} ({text})",)
        return error

    def _secure(
        self, address: str, options: Seq[tuple[str, Any]]
    ) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, Any]]]:
        """Credentials of a channel, None for plain text, and the channel's arguments.

        Raises:
            InvalidArgument: a file cannot work; names it. A token would cross a network in plain
                text.
        """
        own = self._credentials
        if is_unix_socket(address) or not own.uses_tls:
            local = is_unix_socket(address) or is_loopback(address)
            if own.has_token and not own.insecure and not local:
                raise InvalidArgument(
                    f"address: got {address!r}, which is not on this machine, and the token would "
                    "cross the network in plain text: name the daemon's CA with tls_ca (or say "
                    "tls), or say insecure if that is meant"
                )
            return None, list(options)
        ca = key = chain = None
        if own.tls_ca is not None:
            ca = tls_files.read_file("tls_ca", own.tls_ca)
            tls_files.check_ca("tls_ca", own.tls_ca, ca)
        if own.tls_cert is not None and own.tls_key is not None:
            chain = tls_files.read_file("tls_cert", own.tls_cert)
            tls_files.check_chain("tls_cert", own.tls_cert, chain)
            key = tls_files.read_file("tls_key", own.tls_key, secret=True)
            tls_files.check_key("tls_key", own.tls_key, own.tls_cert)
        names: list[tuple[str, Any]] = []
        if own.tls_server_name is not None:
            names.append(("grpc.ssl_target_name_override", own.tls_server_name))
        return grpc.ssl_channel_credentials(ca, key, chain), [*names, *options]

    def _read(self) -> None:
        path = self._credentials.token_file
        assert path is not None
        # Before the content: what changes in between is seen the next time.
        self._stamp = _stamp(path)
        content = tls_files.read_file("token_file", path, secret=True)
        # Latin-1 takes every byte; which of them are no token's is said below.
        token = content.decode("latin-1").strip()
        _check_token(f"token_file: {path}", token)
        self._token = token

    def _try_to_read(self) -> None:
        try:
            self._read()
            self._problem = ""
        except InvalidArgument as error:
            self._problem = f" ({error})"

    def _described(self) -> str:
        if self._credentials.token_file is not None:
            return f"the token of {self._credentials.token_file}{self._problem}"
        if self._token is not None:
            return "the token that it was given"
        return "no token: attnd.Credentials(token_file=...), or $ATTND_TOKEN_FILE, names one"

    def _advice(self, message: str, address: str) -> tuple[str, bool]:
        """What to check, and whether the same would happen again."""
        own = self._credentials
        if is_unix_socket(address):
            return "", False
        says = message.lower()
        # Gone before the first frame: a daemon that wants a handshake, or a certificate.
        gone = "failed to connect" in says and ("socket closed" in says or "reset by" in says)
        if not own.uses_tls:
            return ("if the daemon speaks TLS, name its CA with tls_ca" if gone else ""), False
        if gone:
            if own.tls_cert is None:
                text = "name this client's certificate with tls_cert and tls_key"
            else:
                text = f"did its --tls_client_ca sign {own.tls_cert}?"
            return f"if the daemon wants mutual TLS: {text}", False
        if "certificate has expired" in says:
            return "the daemon's certificate has expired: renew it", True
        if "certificate_verify_failed" in says:
            ca = "a public CA" if own.tls_ca is None else f"tls_ca {own.tls_ca}"
            return f"the daemon's certificate is not signed by {ca}, or is not valid now", True
        if "hostname verification" in says or "not in peer certificate" in says:
            if own.tls_server_name is not None:
                name = own.tls_server_name
                return f"the daemon's certificate is not for tls_server_name {name}", True
            text = f"the daemon's certificate is not for {address}"
            return f"{text}: name whom it is for with tls_server_name", True
        if "wrong_version_number" in says:
            text = "what answers there speaks no TLS: is it the right port, and was attnd started"
            return f"{text} with --tls_cert?", True
        return "", False


def bearer(token: str | None) -> Metadata:
    """The metadata of a call with this token."""
    return None if token is None else (("authorization", f"Bearer {token}"),)


def is_unix_socket(address: str) -> bool:
    """Whether the address is a Unix socket's."""
    return address.startswith(("unix:", "unix-abstract:"))


def is_loopback(address: str) -> bool:
    """Whether the address is this machine for certain; names other than localhost are not asked."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _stamp(path: str) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _check_token(what: str, token: str) -> None:
    """Says nothing of the token but its size."""
    if not token:
        raise InvalidArgument(f"{what} is empty, expected a token")
    visible = all("!" <= character <= "~" for character in token)
    if not visible or len(token) > _MAX_TOKEN_BYTES:
        raise InvalidArgument(
            f"{what} has {len(token)} bytes"
            f"{'' if visible else ', some of them spaces or not visible ASCII'}; expected one word "
            f"of at most {_MAX_TOKEN_BYTES}"
        )
