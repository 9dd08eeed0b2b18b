# SPDX-License-Identifier: Apache-2.0
"""The client of an attnd daemon.

    with attnd.Client("unix:/run/attnd.sock") as client:
        cache = client.open_cache("model", num_layers=30, num_query_heads=9, num_kv_heads=3,
                                  head_dim=64)
        with client.open_session() as session:
            sequence = session.create_sequence(cache)
            item = attnd.Item(sequence=sequence, layer=0, start=0, q=q, k=k, v=v)
            out = session.attend([item])[0].out

All classes are thread-safe, except that one sequence belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from types import TracebackType
from typing import Any, TypeVar

from attnd._proto import admin_pb2, attention_pb2
from attnd.attention import FlashResult
from attnd.caller import Caller
from attnd.calls import run
from attnd.channel import Channel, RetryPolicy
from attnd.client_calls import DEFAULT_OPTIONS, ClientCalls, KvCache
from attnd.credentials import Credentials
from attnd.options import Options
from attnd.session import Session

__all__ = ["Client", "KvCache"]
_Message = TypeVar("_Message")


class Client(ClientCalls):
    """A connection to one daemon.

    Args:
        address: "unix:/path/to/socket" or "host:port".
        timeout_s: of every call that is given none, all its retries included.
        retry: see `RetryPolicy`.
        channel_options: more gRPC channel arguments.
        endpoint: asked before each attempt for the address; it starts the daemon where it must.
            `attnd.connect` uses it.
        credentials: TLS and the tenant's token; None: plain text and no token.

    The connection is made by the first call. Any call raises `Unavailable` where no daemon answers,
    `DeadlineExceeded` after its timeout, and `ForkedProcess` in a fork of the process that made the
    client (one of `attnd.connect` works there too, where it connects anew). With credentials, also
    `HandshakeFailed`, `Unauthenticated` and `PermissionDenied`.

    Raises:
        InvalidArgument: a certificate, a key or a token file cannot work (expired, unreadable, open
            to others, ...), or a token would cross a network in plain text.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        channel_options: Seq[tuple[str, Any]] = (),
        endpoint: Callable[[], str] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        super().__init__()
        self._channel = Channel(
            address,
            timeout_s=timeout_s,
            retry=retry or RetryPolicy(),
            options=channel_options,
            endpoint=endpoint,
            caller=Caller(credentials),
        )
        self.noun = self._channel.noun

    @property
    def address(self) -> str:
        """As it was given; of an embedded daemon, where it serves now."""
        return self._channel.address

    def capabilities(self) -> attention_pb2.GetCapabilitiesResponse:
        """What the daemon's backend supports, and its limits; asked once."""
        return run(self._capabilities())

    def stats(self) -> admin_pb2.GetStatsResponse:
        """One consistent look at the daemon: pools, caches, sessions, counters."""
        return run(self._stats())

    def check_integrity(self) -> admin_pb2.CheckIntegrityResponse:
        """Lets the daemon walk its reference counts, free lists and block tables.

        Raises:
            Internal: names the first disagreement.
        """
        return run(self._check_integrity())

    def set_log_level(self, level: str) -> str:
        """Changes what the daemon logs while it runs; returns the level until now.

        Args:
            level: "trace", "debug", "info", "warning" or "error"; "" changes nothing.

        Raises:
            InvalidArgument: lists the levels.
        """
        return run(self._set_log_level(level))

    def open_cache(
        self,
        name: str,
        *,
        num_layers: int,
        num_query_heads: int,
        num_kv_heads: int,
        head_dim: int,
        head_dim_v: int | None = None,
        dtype: Any = "f32",
        page_size_tokens: int = 0,
        page_quota: int = 0,
    ) -> KvCache:
        """Opens the cache of this name, creating it where there is none.

        Args:
            name: 1 to 128 characters of [A-Za-z0-9._-].
            num_query_heads: a multiple of num_kv_heads.
            head_dim: of q and k; of v too, unless head_dim_v is given.
            dtype: storage of keys and values: "f32", "f16", "bf16", or a numpy or torch dtype.
            page_size_tokens: 0: the daemon's default, 16.
            page_quota: most pages this cache may hold; 0: no limit but the pool's.

        Raises:
            InvalidArgument: a bad geometry.
            FailedPrecondition: the name exists with another geometry; says which field differs.
            Unimplemented: no kernel serves the geometry.
            ResourceExhausted: the pool cannot hold a single slab of it.
        """
        return run(
            self._open_cache(
                name,
                num_layers=num_layers,
                num_query_heads=num_query_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                head_dim_v=head_dim_v,
                dtype=dtype,
                page_size_tokens=page_size_tokens,
                page_quota=page_quota,
            )
        )

    def close_cache(self, cache: KvCache) -> None:
        """Gives a cache's memory back.

        Raises:
            FailedPrecondition: sequences live in it.
            NotFound: it was closed before.
        """
        run(self._close_cache(cache))

    def list_caches(self) -> list[KvCache]:
        """All caches of the daemon."""
        return run(self._list_caches())

    def open_session(
        self, *, lease_s: float | None = None, label: str = "", tenant: str = ""
    ) -> Session:
        """A new session; a thread of the client renews its lease until it is closed or released.

        Args:
            lease_s: how long the daemon keeps the sequences of a client that died; None: the
                daemon's default; capped by its maximum.
            label: shown to operators; at most 128 bytes.
            tenant: whose published prefixes the session shares; at most 128 bytes. The daemon
                believes the name until it authenticates its callers.

        Raises:
            InvalidArgument: the label or the tenant is too long.
        """
        return Session(self, run(self._open_session(lease_s=lease_s, label=label, tenant=tenant)))

    def resume_session(self, token: bytes, *, lease_s: float | None = None) -> Session:
        """Takes up the session of a client that died, or of this one; `sequences` are its own.

        The former holder's requests are refused from then on. The session has a new token;
        `token` is void once the resumed session has been used, so a lost answer is asked for
        again.

        Raises:
            NotFound: the token is unknown, was replaced, or its lease has expired.
            Unavailable: no daemon answered. `token` is still good.
        """
        return Session(self, run(self._resume_session(token, lease_s=lease_s)))

    def flash_attention(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        cu_seqlens_q: Seq[int] | None = None,
        cu_seqlens_k: Seq[int] | None = None,
        options: Options = DEFAULT_OPTIONS,
        timeout_s: float | None = None,
    ) -> FlashResult:
        """Attention over these tensors alone; no cache, no session.

        Args:
            q: [B, Sq, Hq, Dk]; ragged: [total_q, Hq, Dk].
            k: [B, Sk, Hkv, Dk]; ragged: [total_k, Hkv, Dk]. Same dtype as q: f32, f16 or bf16.
            v: [B, Sk, Hkv, Dv]; ragged: [total_k, Hkv, Dv].
            cu_seqlens_q, cu_seqlens_k: make the call ragged: sequence b has rows [b] to [b + 1];
                B + 1 integers, the first 0, not decreasing.
            options: not causal unless asked for. A causal mask is aligned to the lower right
                corner: query i has position Sk - Sq + i.

        Raises:
            InvalidArgument, TypeError: an argument does not fit; names it.
            Unimplemented: no kernel for this combination.
            MessageTooLarge: over the daemon's message limit.

        Source: Dao, "FlashAttention-2", 2023.
        """
        return run(
            self._flash_attention(
                q,
                k,
                v,
                cu_seqlens_q=cu_seqlens_q,
                cu_seqlens_k=cu_seqlens_k,
                options=options,
                timeout_s=timeout_s,
            )
        )

    def close(self) -> None:
        """Closes the connection. Sessions that are not closed live on until their lease ends.

        Nothing happens in a fork of the process: the connection is the parent's.
        """
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r})"

    def check_process(self) -> None:
        """Passes where this client can be used. Raises ForkedProcess elsewhere."""
        self._channel.check_process()

    def call(
        self,
        service: str,
        method: str,
        request: Any,
        response_type: type[_Message],
        *,
        idempotent: bool = True,
        timeout_s: float | None = None,
    ) -> _Message:
        """Any unary method of the wire contract. Raises as `Channel.call` does."""
        return run(
            self._ask(
                service, method, request, response_type, idempotent=idempotent, timeout_s=timeout_s
            )
        )

    def call_with_tensors(
        self, method: str, request: bytes, *, timeout_s: float | None = None
    ) -> bytes:
        """A method of AttentionService, from bytes to bytes.

        Raises:
            MessageTooLarge: before anything is sent, where the request is over the limit.
        """
        run(self._check_size(request))
        return self._channel.call(
            "AttentionService", method, request, idempotent=True, timeout_s=timeout_s
        )

    async def _send(
        self,
        service: str,
        method: str,
        request: bytes,
        *,
        idempotent: bool,
        timeout_s: float | None = None,
    ) -> bytes:
        return self._channel.call(
            service, method, request, idempotent=idempotent, timeout_s=timeout_s
        )

    async def _with_tensors(
        self, method: str, request: bytes, *, timeout_s: float | None = None
    ) -> bytes:
        return self.call_with_tensors(method, request, timeout_s=timeout_s)
