# SPDX-License-Identifier: Apache-2.0
"""What a client shows a daemon, and what it wants to see of it: TLS, mutual TLS, a bearer token.

    credentials = attnd.Credentials(tls_ca="ca.pem", token_file="/run/secrets/attnd-token")
    client = attnd.Client("attnd.example:7450", credentials=credentials)

`attnd.connect()`, and the programs of this package, take them from the environment:
ATTND_TOKEN_FILE, ATTND_TLS_CA, ATTND_TLS_CERT, ATTND_TLS_KEY, ATTND_TLS_SERVER_NAME, and
ATTND_TLS=1 for TLS with public CAs.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any, Self

from attnd.errors import InvalidArgument

_HELP = {
    "tls_ca": ("FILE", "PEM: who signs the daemon's certificate; implies TLS"),
    "tls_cert": ("FILE", "PEM: this client's certificate, for mutual TLS"),
    "tls_key": ("FILE", "PEM: its key, closed to others"),
    "tls_server_name": ("NAME", "whom the daemon's certificate is for, where not its address"),
    "token_file": ("FILE", "the tenant's bearer token, in a file that is closed to others"),
}
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Given to a client; its files are read, and refused where they cannot work, by that client.

    Over a Unix socket TLS is not used: nobody but the kernel sees those bytes. A token over plain
    TCP to another machine is refused, unless `insecure` says that it is meant.

    Attributes:
        token: the tenant's bearer token, or
        token_file: a file that has it. Users who are neither its owner nor of its group must not
            be able to read it. It is read again when it changes.
        tls: TLS; implied by the other four.
        tls_ca: PEM, who signs the daemon's certificate. None: public CAs.
        tls_cert, tls_key: PEM, this client's own certificate and key, for mutual TLS.
        tls_server_name: whom the daemon's certificate is for, where not for its address.
        insecure: the token may cross a network in plain text.
    """

    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_server_name: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        for name in ("token", *_HELP):
            value = getattr(self, name)
            if name in ("token", "tls_server_name"):
                if value is not None and not isinstance(value, str):
                    raise TypeError(f"{name}: got a {type(value).__name__}, expected a str")
            elif value is not None:
                object.__setattr__(self, name, os.fsdecode(value))
        if self.token is not None and self.token_file is not None:
            raise InvalidArgument(
                f"token: got one with token_file {self.token_file!r}, expected one of them"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise InvalidArgument(
                f"{missing}: got None with {given} {getattr(self, given)!r}, expected both"
            )

    @property
    def uses_tls(self) -> bool:
        """Whether connections over TCP are TLS."""
        return self.tls or any((self.tls_ca, self.tls_cert, self.tls_server_name))

    @property
    def has_token(self) -> bool:
        """Whether calls carry a token."""
        return self.token is not None or self.token_file is not None

    @classmethod
    def from_environment(cls) -> Self:
        """What the environment's variables say; an empty variable says nothing.

        Raises:
            InvalidArgument: ATTND_TLS is neither yes nor no; a certificate without its key.
        """
        text = os.environ.get("ATTND_TLS", "")
        if text.lower() not in _YES + _NO:
            raise InvalidArgument(f"$ATTND_TLS: got {text!r}, expected 1 or 0")
        files: dict[str, Any] = {
            name: os.environ.get("ATTND_" + name.upper()) or None for name in _HELP
        }
        return cls(tls=text.lower() in _YES, **files)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """The flags of a program: --tls_ca, --token_file and the others."""
        group = parser.add_argument_group(
            "security", "defaults: ATTND_TLS_CA, ATTND_TOKEN_FILE and so on"
        )
        group.add_argument("--tls", action="store_true", help="TLS, with public CAs")
        for name, (metavar, text) in _HELP.items():
            group.add_argument("--" + name, metavar=metavar, help=text)
        group.add_argument(
            "--insecure",
            action="store_true",
            help="let the token cross a network in plain text",
        )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        """Those flags, and for what they do not say the environment. Raises as the latter does."""
        values = dataclasses.asdict(cls.from_environment())
        for name in _HELP:
            values[name] = getattr(arguments, name) or values[name]
        values["tls"] = arguments.tls or values["tls"]
        values["insecure"] = arguments.insecure
        return cls(**values)

    def flags(self) -> list[str]:
        """For a child process: what `from_arguments` makes these credentials of, but `token`."""
        flags = [f"--{name}={getattr(self, name)}" for name in _HELP if getattr(self, name)]
        return flags + [f"--{name}" for name in ("tls", "insecure") if getattr(self, name)]
