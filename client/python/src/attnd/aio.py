# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio.

    async with attnd.aio.AsyncClient("unix:/run/attnd.sock") as client:
        cache = await client.open_cache("model", num_layers=30, num_query_heads=9, num_kv_heads=3,
                                        head_dim=64)
        async with await client.open_session() as session:
            sequence = await session.create_sequence(cache)
            item = attnd.Item(sequence=sequence, layer=0, start=0, q=q, k=k, v=v)
            out = (await session.attend([item]))[0].out

The methods, their arguments and their errors are those of `attnd.Client`, `attnd.Session` and
`attnd.Sequence`. Cancelling a task that waits for a call cancels the call in the daemon: items that
were not launched yet write nothing. Everything belongs to the event loop that it was first used in;
many tasks may use one client and one session, one sequence belongs to one task at a time.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from collections.abc import Sequence as Seq
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from attnd._proto import admin_pb2, attention_pb2, sequence_pb2, session_pb2
from attnd.aio_stream import AttendStream
from attnd.attention import AttendResult, FlashResult, Item
from attnd.caller import Caller
from attnd.channel import OPTIONS, Attempts, RetryPolicy
from attnd.client_calls import DEFAULT_OPTIONS, ClientCalls, KvCache
from attnd.credentials import Credentials
from attnd.errors import Aborted, AttndError, InvalidArgument, NotFound, SessionLost, from_rpc_error
from attnd.options import Options
from attnd.sequence_calls import SequenceCalls
from attnd.session_calls import SessionCalls


class AsyncClient(ClientCalls):
    """A connection to one daemon; see `attnd.Client`.

    Args:
        address: "unix:/path/to/socket" or "host:port".
        timeout_s: of every call that is given none, all its retries included.
        retry: see `RetryPolicy`.
        channel_options: more gRPC channel arguments.
        credentials: TLS and the tenant's token; None: plain text and no token. The token is checked
            here, the certificates by the first call.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        channel_options: Seq[tuple[str, Any]] = (),
        credentials: Credentials | None = None,
    ) -> None:
        if not isinstance(address, str) or not address:
            raise InvalidArgument(
                f'address: got {address!r}, expected "unix:/path/to/socket" or "host:port"'
            )
        super().__init__()
        self.noun = f"the client of {address}"
        self.address = address
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._options = [*OPTIONS, *channel_options]
        self._caller = Caller(credentials)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}

    async def capabilities(self) -> attention_pb2.GetCapabilitiesResponse:
        """What the daemon's backend supports, and its limits; asked once."""
        return await self._capabilities()

    async def stats(self) -> admin_pb2.GetStatsResponse:
        """One consistent look at the daemon: pools, caches, sessions, counters."""
        return await self._stats()

    async def check_integrity(self) -> admin_pb2.CheckIntegrityResponse:
        """As `Client.check_integrity`."""
        return await self._check_integrity()

    async def set_log_level(self, level: str) -> str:
        """As `Client.set_log_level`."""
        return await self._set_log_level(level)

    async def open_cache(self, name: str, **geometry: Any) -> KvCache:
        """As `Client.open_cache`, with its arguments."""
        return await self._open_cache(name, **geometry)

    async def close_cache(self, cache: KvCache) -> None:
        """As `Client.close_cache`."""
        await self._close_cache(cache)

    async def list_caches(self) -> list[KvCache]:
        """All caches of the daemon."""
        return await self._list_caches()

    async def open_session(
        self, *, lease_s: float | None = None, label: str = "", tenant: str = ""
    ) -> AsyncSession:
        """As `Client.open_session`; a task renews the lease until it is closed or released."""
        opened = await self._open_session(lease_s=lease_s, label=label, tenant=tenant)
        return await AsyncSession(self, opened)._begin()

    async def resume_session(self, token: bytes, *, lease_s: float | None = None) -> AsyncSession:
        """As `Client.resume_session`."""
        opened = await self._resume_session(token, lease_s=lease_s)
        return await AsyncSession(self, opened)._begin(opened)

    async def flash_attention(
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
        """As `Client.flash_attention`."""
        return await self._flash_attention(
            q,
            k,
            v,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            options=options,
            timeout_s=timeout_s,
        )

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled. Nothing happens in a fork."""
        channel, self._channel = self._channel, None
        self._methods.clear()
        if channel is not None and not self.inherited:
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.address!r})"

    async def _send(
        self,
        service: str,
        method: str,
        request: bytes,
        *,
        idempotent: bool,
        timeout_s: float | None = None,
    ) -> bytes:
        self.check_process()
        attempts = Attempts(
            self._retry, self._timeout_s if timeout_s is None else timeout_s, self._caller
        )
        while True:
            try:
                response: bytes = await self._method(f"/attnd.v1.{service}/{method}")(
                    request, timeout=attempts.left_s(), metadata=attempts.metadata()
                )
                return response
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error, method)
            delay_s = attempts.failed(error, idempotent=idempotent, address=self.address)
            await asyncio.sleep(delay_s)

    def _method(self, path: str) -> Callable[..., Any]:
        stub = self._methods.get(path)
        if stub is None:
            stub = self._methods[path] = self._connected().unary_unary(path)
        return stub

    def _connected(self) -> grpc.aio.Channel:
        self.check_process()
        if self._channel is None:
            # Here and not in __init__: grpc.aio takes the loop that runs.
            self._channel = self._caller.aio_channel(self.address, self._options)
        return self._channel


class AsyncSequence(SequenceCalls):
    """A handle; see `attnd.Sequence`, whose attributes it has."""

    session: AsyncSession

    async def describe(self) -> sequence_pb2.SequenceInfo:
        """As `Sequence.describe`."""
        return await self._describe()

    async def fork(self, length: int | None = None) -> Self:
        """As `Sequence.fork`."""
        return await self._fork(length)

    async def publish(self, keys: Seq[bytes], first_page: int = 0) -> int:
        """As `Sequence.publish`."""
        return await self._publish(keys, first_page)

    async def truncate(self, length: int) -> None:
        """As `Sequence.truncate`."""
        await self._truncate(length)

    async def free(self) -> None:
        """As `Sequence.free`."""
        await self._free()

    async def set_client_state(self, state: bytes, *, expected_version: int | None = None) -> int:
        """As `Sequence.set_client_state`."""
        return await self._set_client_state(state, expected_version=expected_version)


class AsyncSession(SessionCalls):
    """A session of this client; see `attnd.Session`, whose attributes it has.

    `async with` closes it at the end. Its lease is renewed by a task of the event loop.
    """

    client: AsyncClient
    sequences: list[AsyncSequence]
    _sequence_type = AsyncSequence
    _keeper: asyncio.Task[None] | None = None

    async def create_sequence(
        self,
        cache: KvCache,
        *,
        client_state: bytes = b"",
        prefix_keys: Seq[bytes] | None = None,
        num_tokens: int | None = None,
    ) -> AsyncSequence:
        """As `Session.create_sequence`."""
        sequence: AsyncSequence = await self._create_sequence(
            cache, client_state=client_state, prefix_keys=prefix_keys, num_tokens=num_tokens
        )
        return sequence

    async def match_prefix(self, cache: KvCache, keys: Seq[bytes], num_tokens: int) -> int:
        """As `Session.match_prefix`."""
        return await self._match_prefix(cache, keys, num_tokens)

    async def attend(
        self, items: Seq[Item], *, timeout_s: float | None = None, check: bool = True
    ) -> AttendResult:
        """As `Session.attend`. Cancelled, it may have written; the same items may be sent again."""
        return await self._attend(items, timeout_s=timeout_s, check=check)

    def stream(self, *, timeout_s: float | None = None) -> AttendStream:
        """An AttendStream of this session: many requests in flight on one call.

        Args:
            timeout_s: of the whole stream; None: no limit.
        """
        return AttendStream(self, timeout_s=timeout_s)

    async def list_sequences(self) -> list[AsyncSequence]:
        """As `Session.list_sequences`."""
        return await self._list_sequences()

    async def renew(self) -> None:
        """Starts the lease anew; a task does this by itself."""
        await self._renew()

    async def close(self) -> None:
        """Ends the session and frees its sequences. Harmless twice, and in a fork."""
        await self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except AttndError:
            if error is None:
                raise

    async def _begin(self, resumed: session_pb2.ResumeSessionResponse | None = None) -> Self:
        if resumed is not None and resumed.sequences:
            self.sequences = await self._handles(resumed.sequences)
        if self.lease_s > 0:
            self._keeper = asyncio.create_task(
                _keep_lease(weakref.ref(self), self.lease_s / 3), name="attnd-lease"
            )
        return self

    def _end_lease(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()


async def _keep_lease(reference: weakref.ref[AsyncSession], interval_s: float) -> None:
    """Renews a session's lease until it is lost, or nothing refers to it."""
    wait_s = interval_s
    while True:
        await asyncio.sleep(wait_s)
        wait_s = interval_s
        session = reference()
        if session is None:
            return
        try:
            await session.renew()
        except (NotFound, Aborted) as error:
            session._lost = str(error)
            return
        except SessionLost:
            return
        except AttndError:
            wait_s /= 4  # The daemon is busy or away.
        del session
