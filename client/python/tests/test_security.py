# SPDX-License-Identifier: Apache-2.0
"""TLS, mutual TLS and tokens against the fake daemon: who gets in, and what the others are told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import attnd
from attnd import Credentials, caller
from attnd.aio import AsyncClient
from certificates import Certificate, make_ca, make_certificate
from fake_daemon import FakeDaemon

TOKEN, OTHER_TOKEN = "the-tenant's-token", "another-token"


@dataclass(frozen=True)
class Keys:
    """What the tests choose from."""

    ca: Certificate
    other_ca: Certificate
    server: Certificate
    client: Certificate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def keys(folder: Path) -> Keys:
    ca, other_ca = make_ca(folder, "ca"), make_ca(folder, "other-ca")
    return Keys(
        ca,
        other_ca,
        make_certificate(folder, "server", ca, names="IP:127.0.0.1,DNS:attnd.example"),
        make_certificate(folder, "client", ca, names="DNS:client.example"),
    )


def server_credentials(
    server: Certificate, client_ca: Certificate | None = None
) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(server.key.read_bytes(), server.cert.read_bytes())],
        root_certificates=None if client_ca is None else client_ca.cert.read_bytes(),
        require_client_auth=client_ca is not None,
    )


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeDaemon]]:
    """Fake daemons on TCP, ended with the test."""
    daemons: list[FakeDaemon] = []

    def start(
        secure: grpc.ServerCredentials | None = None, tokens: set[str] | None = None
    ) -> FakeDaemon:
        daemon = FakeDaemon("127.0.0.1:0", secure, tokens)
        daemons.append(daemon)
        return daemon.__enter__()

    yield start
    for daemon in daemons:
        daemon.__exit__()


def secret(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def ask(daemon: FakeDaemon, credentials: Credentials | None) -> None:
    with attnd.Client(daemon.address, credentials=credentials, timeout_s=10) as client:
        client.capabilities()


Serve = Callable[..., FakeDaemon]


def test_tls_with_the_daemons_ca(serve: Serve, keys: Keys) -> None:
    daemon = serve(server_credentials(keys.server))
    ask(daemon, Credentials(tls_ca=keys.ca.cert))
    ask(daemon, Credentials(tls_ca=keys.ca.cert, tls_server_name="attnd.example"))
    assert daemon.calls == ["GetCapabilities"] * 2


class FarAway:
    """A TCP relay to `address` that holds each piece of the answers back, as distance does."""

    def __init__(self, address: str, delay_s: float) -> None:
        host, _, port = address.rpartition(":")
        self._target, self._delay_s = (host, int(port)), delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FarAway:
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for ends in ((near, far, 0.0), (far, near, self._delay_s)):
                    threading.Thread(target=self._relay, args=ends, daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, delay_s: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                threading.Event().wait(delay_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_handshake_may_take_as_long_as_distance_makes_it(serve: Serve, keys: Keys) -> None:
    daemon = serve(server_credentials(keys.server))
    retry = attnd.RetryPolicy(max_attempts=1)
    credentials = Credentials(tls_ca=keys.ca.cert)
    with (
        FarAway(daemon.address, delay_s=0.3) as far,
        attnd.Client(far.address, credentials=credentials, retry=retry) as client,
    ):
        client.capabilities()


def test_mutual_tls(serve: Serve, keys: Keys) -> None:
    daemon = serve(server_credentials(keys.server, client_ca=keys.ca))
    files = {"tls_ca": keys.ca.cert, "tls_cert": keys.client.cert, "tls_key": keys.client.key}
    ask(daemon, Credentials(**files))
    retry = attnd.RetryPolicy(max_attempts=1)
    with (
        attnd.Client(
            daemon.address, credentials=Credentials(tls_ca=keys.ca.cert), retry=retry
        ) as client,
        pytest.raises(attnd.Unavailable, match=r"mutual TLS.*tls_cert and tls_key"),
    ):
        client.capabilities()
    assert daemon.calls == ["GetCapabilities"]


def refused(daemon: FakeDaemon, credentials: Credentials, why: str) -> None:
    """The handshake fails at the first attempt, says why, and nothing reaches the daemon."""
    with pytest.raises(attnd.HandshakeFailed, match=why) as raised:
        ask(daemon, credentials)
    assert raised.value.from_channel
    assert not raised.value.retryable
    assert "tried once" in str(raised.value)
    assert daemon.calls == []


def test_another_ca_is_refused(serve: Serve, keys: Keys) -> None:
    daemon = serve(server_credentials(keys.server))
    refused(
        daemon,
        Credentials(tls_ca=keys.other_ca.cert),
        rf"not signed by tls_ca {keys.other_ca.cert}",
    )
    refused(daemon, Credentials(tls=True), r"not signed by a public CA")


def test_another_name_is_refused(serve: Serve, keys: Keys) -> None:
    daemon = serve(server_credentials(keys.server))
    refused(
        daemon,
        Credentials(tls_ca=keys.ca.cert, tls_server_name="other.example"),
        r"not for tls_server_name other\.example",
    )


def test_a_daemon_with_an_expired_certificate_is_refused(
    serve: Serve, keys: Keys, folder: Path
) -> None:
    expired = make_certificate(folder, "expired-server", keys.ca, ends=-timedelta(minutes=1))
    daemon = serve(server_credentials(expired))
    refused(daemon, Credentials(tls_ca=keys.ca.cert), r"daemon's certificate has expired")


def test_tls_where_none_is_spoken_and_none_where_it_is(serve: Serve, keys: Keys) -> None:
    refused(serve(), Credentials(tls_ca=keys.ca.cert), r"speaks no TLS")
    daemon = serve(server_credentials(keys.server))
    retry = attnd.RetryPolicy(max_attempts=1)
    with (
        attnd.Client(daemon.address, retry=retry) as client,
        pytest.raises(attnd.Unavailable, match=r"if the daemon speaks TLS, name its CA"),
    ):
        client.capabilities()


def test_files_that_cannot_work_are_named_before_connecting(keys: Keys, folder: Path) -> None:
    def check(why: str, **files: object) -> None:
        credentials = Credentials(**({"tls_ca": keys.ca.cert} | files))
        with pytest.raises(attnd.InvalidArgument, match=why):
            attnd.Client("127.0.0.1:1", credentials=credentials)

    def pair(made: Certificate) -> dict[str, Path]:
        return {"tls_cert": made.cert, "tls_key": made.key}

    expired = make_certificate(folder, "expired", keys.ca, ends=-timedelta(minutes=1))
    early = make_certificate(
        folder, "early", keys.ca, begins=timedelta(hours=1), ends=timedelta(hours=2)
    )
    check(rf"tls_cert: {expired.cert}: the certificate expired on \d{{4}}-", **pair(expired))
    check(rf"tls_cert: {early.cert}: .* is valid from .*: is the clock right", **pair(early))
    check(rf"tls_ca: {expired.cert}: the certificate expired on", tls_ca=expired.cert)
    check(r"tls_ca: cannot read /nowhere/ca.pem: No such file", tls_ca="/nowhere/ca.pem")
    check(rf"tls_ca: {keys.ca.key}: no certificate in it", tls_ca=keys.ca.key)
    check(rf"tls_ca: cannot read {folder}: Is a directory", tls_ca=folder)
    check(
        rf"tls_key: {keys.server.key}: the key is not that of .* in {keys.client.cert}",
        tls_cert=keys.client.cert,
        tls_key=keys.server.key,
    )
    check(
        r"tls_key: .*ca\.pem.*: no private key in it",
        tls_cert=keys.client.cert,
        tls_key=secret(folder / "ca.pem.key", keys.ca.cert.read_text()),
    )
    torn = folder / "torn.pem"
    torn.write_text(keys.ca.cert.read_text().replace("MII", "AAA", 1))
    check(rf"tls_ca: {torn}: certificate 1 is malformed", tls_ca=torn)
    encrypted = folder / "encrypted.key"
    subprocess.run(
        f"openssl pkey -aes128 -passout pass:x -in {keys.client.key} -out {encrypted}".split(),
        check=True,
    )
    check(
        rf"tls_key: {encrypted}: the key is encrypted",
        tls_cert=keys.client.cert,
        tls_key=encrypted,
    )
    opened = folder / "opened.key"
    opened.write_bytes(keys.client.key.read_bytes())
    opened.chmod(0o644)
    check(
        rf"tls_key: {opened} has mode 0644: every user may read it, expected at most 0640",
        tls_cert=keys.client.cert,
        tls_key=opened,
    )


def test_a_bundle_of_cas_may_have_old_ones_in_it(serve: Serve, keys: Keys, folder: Path) -> None:
    expired = make_certificate(folder, "old-ca", keys.ca, ends=-timedelta(minutes=1))
    bundle = folder / "bundle.pem"
    bundle.write_bytes(expired.cert.read_bytes() + keys.ca.cert.read_bytes())
    ask(serve(server_credentials(keys.server)), Credentials(tls_ca=bundle))


def test_half_a_pair_and_two_tokens_are_refused() -> None:
    with pytest.raises(attnd.InvalidArgument, match=r"tls_key: got None with tls_cert 'c\.pem'"):
        Credentials(tls_cert="c.pem")
    with pytest.raises(
        attnd.InvalidArgument, match=r"token: got one with token_file 'f'"
    ) as raised:
        Credentials(token=TOKEN, token_file="f")
    assert TOKEN not in str(raised.value)
    with pytest.raises(TypeError, match="token: got a bytes, expected a str"):
        Credentials(token=TOKEN.encode())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"credentials: got a str, expected attnd\.Credentials"):
        attnd.Client("unix:/nowhere", credentials=TOKEN)  # type: ignore[arg-type]


def test_every_call_carries_the_token(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tokens={TOKEN})
    path = secret(tmp_path / "token", TOKEN + "\n")
    for credentials in (Credentials(token=TOKEN), Credentials(token_file=path)):
        with attnd.Client(daemon.address, credentials=credentials) as client:
            cache = client.open_cache(
                "tokens", num_layers=1, num_query_heads=2, num_kv_heads=1, head_dim=8
            )
            with client.open_session() as session:
                session.create_sequence(cache).free()
    assert len(daemon.sent_tokens) == 2 * 5
    assert set(daemon.sent_tokens) == {TOKEN}


def test_asyncio_sends_it_too(serve: Serve, keys: Keys) -> None:
    daemon = serve(server_credentials(keys.server), {TOKEN})
    credentials = Credentials(token=TOKEN, tls_ca=keys.ca.cert)

    async def test() -> None:
        async with AsyncClient(daemon.address, credentials=credentials) as client:
            await (await client.open_session()).close()
        wrong = dataclasses.replace(credentials, token=OTHER_TOKEN)
        async with AsyncClient(daemon.address, credentials=wrong) as client:
            with pytest.raises(attnd.Unauthenticated, match="the token that it was given"):
                await client.capabilities()
        expired = dataclasses.replace(credentials, tls_ca=str(keys.other_ca.cert))
        async with AsyncClient(daemon.address, credentials=expired) as client:
            with pytest.raises(attnd.HandshakeFailed, match="not signed by tls_ca"):
                await client.capabilities()

    asyncio.run(asyncio.wait_for(test(), 60))
    assert daemon.sent_tokens == [TOKEN, TOKEN, OTHER_TOKEN]


def test_without_a_token_it_says_how_to_name_one(serve: Serve) -> None:
    daemon = serve(tokens={TOKEN})
    with pytest.raises(
        attnd.Unauthenticated,
        match=r"no such token \(this client sent no token: .*ATTND_TOKEN_FILE",
    ) as raised:
        ask(daemon, None)
    assert isinstance(raised.value, PermissionError)
    assert daemon.sent_tokens == [None]


def test_a_wrong_token_is_not_repeated_and_not_shown(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tokens={TOKEN})
    path = secret(tmp_path / "token", OTHER_TOKEN)
    with pytest.raises(attnd.Unauthenticated, match=f"the token of {path}") as raised:
        ask(daemon, Credentials(token_file=path))
    assert daemon.sent_tokens == [OTHER_TOKEN]
    assert OTHER_TOKEN not in str(raised.value) + repr(raised.value)


def test_a_rotated_token_is_sent_from_the_next_call_on(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tokens={TOKEN, OTHER_TOKEN})
    path = tmp_path / "token"
    secret(path, TOKEN)
    with attnd.Client(daemon.address, credentials=Credentials(token_file=str(path))) as client:
        client.stats()
        secret(tmp_path / "new", OTHER_TOKEN)
        (tmp_path / "new").rename(path)
        client.stats()
        # In the middle of a rotation the last good one stays.
        path.unlink()
        client.stats()
        path.touch(mode=0o644)
        client.stats()
        assert daemon.sent_tokens == [TOKEN, OTHER_TOKEN, OTHER_TOKEN, OTHER_TOKEN]
        daemon.tokens = {TOKEN}
        with pytest.raises(attnd.Unauthenticated, match=rf"the token of {path} \(.*has mode 0644"):
            client.stats()


def test_a_refused_token_is_read_again_once(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(tokens={TOKEN})
    path = tmp_path / "token"
    secret(path, TOKEN)
    with attnd.Client(daemon.address, credentials=Credentials(token_file=str(path))) as client:
        client.stats()
        # As where a file system's clock is too coarse for the change: only reading tells.
        secret(path, "x" * len(TOKEN))
        daemon.tokens = {"x" * len(TOKEN)}
        client._channel._caller._stamp = caller._stamp(str(path))
        client.open_session(lease_s=60).release()
    assert daemon.sent_tokens == [TOKEN, TOKEN, "x" * len(TOKEN)]


def test_only_once_whatever_the_file_says_then(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "token"

    class NoToken(set[str]):
        """Refuses each token, and has the file rotated meanwhile."""

        def __contains__(self, token: object) -> bool:
            secret(path, f"{token}x")
            return False

    daemon = serve(tokens=NoToken())
    secret(path, "x")
    with pytest.raises(attnd.Unauthenticated):
        ask(daemon, Credentials(token_file=str(path)))
    assert daemon.sent_tokens == ["x", "xx"]


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        ("", 0o600, r"token_file: \S+ is empty"),
        (" \n", 0o600, r"token_file: \S+ is empty"),
        ("two words", 0o600, r"has 9 bytes, some of them spaces .* expected one word"),
        ("caf\u00e9", 0o600, r"has 5 bytes, some of them"),
        ("x" * 5000, 0o600, r"has 5000 bytes; expected one word of at most 4096"),
        (TOKEN, 0o644, r"mode 0644: every user may read it, expected at most 0640 \(chmod 600 "),
        (TOKEN, 0o660, r"mode 0660: others may change it"),
    ],
)
def test_token_files_that_are_none(tmp_path: Path, content: str, mode: int, why: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(attnd.InvalidArgument, match=why) as raised:
        attnd.Client("unix:/nowhere", credentials=Credentials(token_file=str(path)))
    assert str(path) in str(raised.value)
    assert not content.strip() or content.strip() not in str(raised.value)


def test_a_mounted_secret_may_be_its_groups_to_read(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o440)
    ask(serve(tokens={TOKEN}), Credentials(token_file=str(path)))


def test_a_token_does_not_cross_a_network_in_plain_text() -> None:
    credentials = Credentials(token=TOKEN)
    for address in ("10.0.0.1:7450", "attnd.example:7450", "127.example.com:1", "[fe80::1]:1"):
        with pytest.raises(attnd.InvalidArgument, match="in plain text") as raised:
            attnd.Client(address, credentials=credentials)
        assert address in str(raised.value)
        assert TOKEN not in str(raised.value)
        attnd.Client(address, credentials=dataclasses.replace(credentials, insecure=True)).close()
        attnd.Client(address, credentials=dataclasses.replace(credentials, tls=True)).close()
    for address in ("127.0.0.1:1", "127.3.2.1:1", "[::1]:1", "localhost:1", "unix:/nowhere"):
        attnd.Client(address, credentials=credentials).close()
        assert caller.is_loopback(address) or address.startswith("unix:")


def test_a_token_is_in_no_representation(tmp_path: Path) -> None:
    credentials = Credentials(token=TOKEN, tls_ca="ca.pem")
    assert TOKEN not in repr(credentials) + str(credentials)
    assert "ca.pem" in repr(credentials)
    with attnd.Client("unix:/nowhere", credentials=Credentials(token=TOKEN)) as client:
        shown = repr(client) + repr(client._channel) + repr(client._channel._caller)
    assert TOKEN not in shown


def test_connect_takes_them_from_the_environment(
    serve: Serve, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = serve(server_credentials(keys.server, client_ca=keys.ca), {TOKEN})
    for name, value in {
        "ATTND_TOKEN_FILE": secret(tmp_path / "token", TOKEN),
        "ATTND_TLS_CA": keys.ca.cert,
        "ATTND_TLS_CERT": keys.client.cert,
        "ATTND_TLS_KEY": keys.client.key,
        "ATTND_TLS_SERVER_NAME": "attnd.example",
    }.items():
        monkeypatch.setenv(name, str(value))
    with attnd.connect(daemon.address) as client:
        client.stats()
    # What is given by hand is not mixed with the environment's.
    with (
        attnd.connect(
            daemon.address, credentials=Credentials(), retry=attnd.RetryPolicy(max_attempts=1)
        ) as client,
        pytest.raises(attnd.Unavailable),
    ):
        client.stats()
    assert daemon.sent_tokens == [TOKEN]
    monkeypatch.setenv("ATTND_TLS", "perhaps")
    with pytest.raises(attnd.InvalidArgument, match=r"\$ATTND_TLS: got 'perhaps', expected 1 or 0"):
        attnd.connect(daemon.address)


def test_flags_go_before_the_environment_and_on_to_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import argparse

    monkeypatch.setenv("ATTND_TLS_CA", "environment.pem")
    monkeypatch.setenv("ATTND_TOKEN_FILE", "environment.token")
    parser = argparse.ArgumentParser()
    Credentials.add_arguments(parser)
    given = ["--token_file=flag.token", "--insecure"]
    credentials = Credentials.from_arguments(parser.parse_args(given))
    expected = Credentials(tls_ca="environment.pem", token_file="flag.token", insecure=True)
    assert credentials == expected
    monkeypatch.delenv("ATTND_TLS_CA")
    monkeypatch.delenv("ATTND_TOKEN_FILE")
    assert Credentials.from_arguments(parser.parse_args(credentials.flags())) == expected
