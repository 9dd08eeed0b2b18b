# SPDX-License-Identifier: Apache-2.0
"""TLS, mutual TLS and tenants' tokens against the real daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

import attnd
from attnd import Credentials
from attnd.aio import AsyncClient
from certificates import make_ca, make_certificate
from conftest import Make, RealDaemon

GEOMETRY = {"num_layers": 1, "num_query_heads": 2, "num_kv_heads": 1, "head_dim": 64}
CHAT, BATCH, ROOT = "chat-token-0123456789", "batch-token-0123456789", "admin-token-0123456789"
TENANTS = f"""
tenants:
  - {{name: chat, tokens: [{CHAT}]}}
  - {{name: batch, tokens: [{BATCH}]}}
  - {{name: root, role: admin, tokens: [{ROOT}]}}
"""


@dataclass(frozen=True)
class Served:
    """A daemon on TCP with TLS, mutual TLS and tenants, and what a client of it needs."""

    address: str  # TLS
    unix_address: str  # plain
    folder: Path
    daemon: RealDaemon

    def credentials(self, token: str | None, **others: object) -> Credentials:
        files = {
            "tls_ca": self.folder / "ca.pem",
            "tls_cert": self.folder / "client.pem",
            "tls_key": self.folder / "client.key",
        }
        return Credentials(token=token, **(files | others))

    def client(self, token: str | None, **others: object) -> attnd.Client:
        retry = attnd.RetryPolicy(max_attempts=1)
        return attnd.Client(
            self.address, credentials=self.credentials(token, **others), retry=retry
        )


@pytest.fixture
def served(start_daemon: Callable[..., RealDaemon], tmp_path: Path) -> Served:
    ca = make_ca(tmp_path, "ca")
    server = make_certificate(tmp_path, "server", ca)
    make_certificate(tmp_path, "client", ca, names="DNS:client.example")
    tenants = tmp_path / "tenants.yaml"
    tenants.touch(mode=0o600)
    tenants.write_text(TENANTS)
    daemon = start_daemon(
        "--listen=127.0.0.1:0",
        f"--tls_cert={server.cert}",
        f"--tls_key={server.key}",
        f"--tls_client_ca={ca.cert}",
        f"--tenants_file={tenants}",
    )
    listening = json.loads((daemon.folder / "ready.json").read_text())["listen"]
    address = next(address for address in listening if not address.startswith("unix:"))
    return Served(address, daemon.address, tmp_path, daemon)


def test_mutual_tls_and_a_token_get_in_and_compute(served: Served) -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 5, 2, 64), np.float32) for _ in range(3))
    with served.client(CHAT) as client:
        out = client.flash_attention(q, k, v).out
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / 8
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_who_is_not_let_in_by_tls(served: Served, tmp_path: Path) -> None:
    other_ca = make_ca(tmp_path, "other-ca")
    stranger = make_certificate(tmp_path, "stranger", other_ca, names="DNS:client.example")
    with served.client(CHAT, tls_ca=other_ca.cert) as client, pytest.raises(attnd.HandshakeFailed):
        client.capabilities()
    for pair in (
        {"tls_cert": None, "tls_key": None},
        {"tls_cert": stranger.cert, "tls_key": stranger.key},
    ):
        with (
            served.client(CHAT, **pair) as client,
            pytest.raises(attnd.Unavailable, match="mutual TLS"),
        ):
            client.capabilities()
    with (
        attnd.Client(served.address, retry=attnd.RetryPolicy(max_attempts=1)) as client,
        pytest.raises(attnd.Unavailable, match="if the daemon speaks TLS"),
    ):
        client.capabilities()


def test_an_expired_certificate_is_refused_before_it_is_shown(
    served: Served, tmp_path: Path
) -> None:
    issuer = make_ca(tmp_path, "any-ca")
    old = make_certificate(tmp_path, "old", issuer, ends=-timedelta(minutes=1))
    with pytest.raises(attnd.InvalidArgument, match=rf"tls_cert: {old.cert}: .* expired on"):
        served.client(CHAT, tls_cert=old.cert, tls_key=old.key)


@pytest.mark.parametrize("over", ["tls", "unix"])
def test_no_token_and_a_wrong_one_are_refused(served: Served, over: str) -> None:
    address = served.address if over == "tls" else served.unix_address
    for token, why in (
        (None, r"has no token.*this client sent no token"),
        ("wrong-token-0123456789", r"this client sent the token that it was given"),
    ):
        with (
            attnd.Client(address, credentials=served.credentials(token)) as client,
            pytest.raises(attnd.Unauthenticated, match=why) as raised,
        ):
            client.open_session()
        assert "wrong-token" not in str(raised.value)
    with attnd.Client(address, credentials=served.credentials(CHAT)) as client:
        client.open_session().close()
    assert CHAT not in (served.daemon.folder / "attnd.log").read_text()


def test_two_tenants_do_not_see_each_other(served: Served, make_item: Make) -> None:
    with served.client(CHAT) as chat, served.client(BATCH) as batch:
        cache = chat.open_cache("model", **GEOMETRY)
        session = chat.open_session()
        sequence = session.create_sequence(cache)
        session.attend([make_item(sequence, 3)])
        # The same name is another cache.
        assert [cache.name for cache in batch.list_caches()] == []
        other = batch.open_cache("model", **(GEOMETRY | {"head_dim": 32}))
        assert other.id != cache.id
        with batch.open_session() as others, pytest.raises(attnd.NotFound):
            others.create_sequence(cache)
        with pytest.raises(attnd.NotFound):
            batch.close_cache(cache)
        with pytest.raises(attnd.NotFound):
            batch.resume_session(session.token)
        session.close()


def test_what_a_tenants_role_may_not_do(served: Served) -> None:
    with served.client(CHAT) as chat, served.client(ROOT) as root:
        with pytest.raises(attnd.PermissionDenied, match="CheckIntegrity"):
            chat.check_integrity()
        root.check_integrity()


def test_asyncio_and_its_stream(served: Served, make_item: Make) -> None:
    async def test() -> None:
        credentials = served.credentials(CHAT)
        async with AsyncClient(served.address, credentials=credentials) as client:
            session = await client.open_session()
            cache = await client.open_cache("aio", **GEOMETRY)
            sequence = await session.create_sequence(cache)
            async with session.stream() as stream:
                result = await stream.attend([make_item(sequence, 3)])
            assert result[0].out.shape == (3, 2, 64)
            await session.close()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_stream_with_a_wrong_token_ends_with_its_reason(served: Served, make_item: Make) -> None:
    async def test() -> None:
        path = served.folder / "token"
        path.touch(mode=0o600)
        path.write_text(CHAT)
        credentials = served.credentials(None, token_file=path)
        async with AsyncClient(served.address, credentials=credentials) as client:
            session = await client.open_session()
            sequence = await session.create_sequence(await client.open_cache("aio", **GEOMETRY))
            path.write_text("no-longer-a-good-token")
            stream = session.stream()
            with pytest.raises(attnd.Unauthenticated, match=f"the token of {path}"):
                async with stream:
                    await stream.attend([make_item(sequence, 3)])
            path.write_text(CHAT)
            await session.close()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_connect_and_a_token_file_from_the_environment(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = served.folder / "token"
    path.touch(mode=0o600)
    path.write_text(CHAT + "\n")
    for name, value in {
        "ATTND_TOKEN_FILE": path,
        "ATTND_TLS_CA": served.folder / "ca.pem",
        "ATTND_TLS_CERT": served.folder / "client.pem",
        "ATTND_TLS_KEY": served.folder / "client.key",
    }.items():
        monkeypatch.setenv(name, str(value))
    with attnd.connect(served.address) as client:
        client.open_session().close()
        path.write_text(BATCH)  # rotated: the next call is the other tenant's
        assert client.list_caches() == []
