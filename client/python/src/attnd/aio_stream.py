# SPDX-License-Identifier: Apache-2.0
"""AttendStream: many Attend requests of one session in flight on one call.

    async with session.stream() as stream:
        first = await stream.submit(items_of_layer_0_of_some)
        second = await stream.submit(items_of_layer_0_of_others)
        results = await first, await second

Requests reach the daemon in the order of `submit`; each result comes when it is ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Seq
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from attnd.attention import AttendResult, Item, split_attend, unpack_results
from attnd.caller import bearer
from attnd.errors import AttndError, Cancelled, Unavailable, from_item_status, from_rpc_error
from attnd.session_calls import checked

if TYPE_CHECKING:
    from attnd.aio import AsyncSession

_PATH = "/attnd.v1.AttentionService/AttendStream"
_Waiting = tuple[Seq[Item], bool, "asyncio.Future[AttendResult]"]


class AttendStream:
    """From `AsyncSession.stream`; `async with` opens it, and at the end waits for all answers.

    It is not retried by itself: where the connection fails, each request that has no answer raises
    `Unavailable` with `from_channel` set. Its items may be sent again as they are.
    """

    def __init__(self, session: AsyncSession, *, timeout_s: float | None) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._last_id = 0
        self._failed: AttndError | None = None

    async def submit(self, items: Seq[Item], *, check: bool = True) -> asyncio.Future[AttendResult]:
        """Sends a batch; returns when it is on its way. The future has its results.

        Cancelling the future forgets the answer; the daemon executes the request all the same. To
        call everything in flight off, leave the `async with` by an exception.

        Args:
            items: as of `AsyncSession.attend`.
            check: the future raises the first failed item's error.

        Raises:
            InvalidArgument, TypeError: an argument does not fit.
            Unavailable: the stream has failed.
        """
        if self._call is None:
            raise RuntimeError("stream: got used outside of its `async with`")
        if self._failed is not None:
            raise self._failed
        # One at a time, so that the order of submission is the order on the wire.
        async with self._writing:
            self._last_id += 1
            request_id = self._last_id
            request = self._session._pack(items, request_id)
            await self._session.client._check_size(request)
            answer: asyncio.Future[AttendResult] = asyncio.get_running_loop().create_future()
            self._waiting[request_id] = (items, check, answer)
            try:
                await self._call.write(request)
            except (grpc.RpcError, asyncio.InvalidStateError):
                await self._end_reader()
        return answer

    async def attend(self, items: Seq[Item], *, check: bool = True) -> AttendResult:
        """`submit`, and the results when they are there."""
        return await (await self.submit(items, check=check))

    async def __aenter__(self) -> Self:
        client = self._session.client
        self._call = client._connected().stream_stream(_PATH)(
            timeout=self._timeout_s, metadata=bearer(client._caller.token())
        )
        self._reader = asyncio.create_task(self._read(), name="attnd-stream")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._failed is None:
            await self._call.done_writing()
        else:
            self._call.cancel()
        await self._end_reader()

    async def _end_reader(self) -> None:
        if self._reader is not None:
            await asyncio.shield(self._reader)

    async def _read(self) -> None:
        """Hands the answers out until the stream ends, then ends whoever still waits."""
        failed: AttndError
        try:
            async for response in self._call:
                self._hand_out(response)
            failed = Unavailable("the stream has ended before the answer", method="AttendStream")
        except grpc.RpcError as rpc_error:
            client = self._session.client
            failed = client._caller.explain(
                from_rpc_error(rpc_error, "AttendStream"), client.address
            )
            if failed.from_channel:
                failed.args = (
                    f"{failed.args[0]} (daemon at {client.address}; possibly "
                    "executed, and harmless to send again as it is)",
                )
        except asyncio.CancelledError:
            failed = Cancelled("the stream was cancelled", method="AttendStream")
        self._failed = failed
        for _, _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(failed)
        self._waiting.clear()

    def _hand_out(self, response: bytes) -> None:
        message, data = split_attend(response)
        items, check, answer = self._waiting.pop(message.request_id)
        if answer.done():
            return  # Whoever asked was cancelled.
        try:
            if message.status.code:
                raise from_item_status(message.status, None)
            answer.set_result(checked(unpack_results(message, data, items), check))
        except AttndError as error:
            answer.set_exception(error)
