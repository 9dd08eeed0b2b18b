# SPDX-License-Identifier: Apache-2.0
"""Sessions: what a handle knows, and its calls (see `attnd.calls`)."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any, ClassVar

from attnd._proto import sequence_pb2, session_pb2, types_pb2
from attnd.attention import AttendResult, Item, pack_attend, unpack_attend
from attnd.errors import Aborted, InvalidArgument, NotFound, SessionLost
from attnd.options import integer
from attnd.prefix import check_keys
from attnd.process import ProcessBound
from attnd.sequence_calls import MAX_CLIENT_STATE_BYTES, SequenceCalls

if TYPE_CHECKING:
    from attnd.client_calls import ClientCalls, KvCache


class SessionCalls(ProcessBound):
    """The handle; its public methods are those of `Session` and `AsyncSession`."""

    _sequence_type: ClassVar[type[SequenceCalls]]

    def __init__(
        self,
        client: ClientCalls,
        opened: session_pb2.OpenSessionResponse | session_pb2.ResumeSessionResponse,
    ) -> None:
        super().__init__()
        self.noun = f"a session of {client.noun}"
        self.client: Any = client
        self.id: types_pb2.Id = opened.session
        self.token: bytes = opened.token
        self.epoch: int = opened.epoch
        self.lease_s: float = opened.lease_ms / 1e3
        self.sequences: list[Any] = []
        self._lost: str = ""
        self._last_call = time.monotonic()

    def _end_lease(self) -> None:
        """Nothing renews it from now on."""
        raise NotImplementedError

    def release(self) -> bytes:
        """Stops renewing and forgets the session without closing it; returns its token."""
        self.check_process()
        self._lost = self._lost or "it was released"
        self._end_lease()
        return self.token

    async def _create_sequence(
        self,
        cache: KvCache,
        *,
        client_state: bytes = b"",
        prefix_keys: Seq[bytes] | None = None,
        num_tokens: int | None = None,
    ) -> Any:
        if len(client_state) > MAX_CLIENT_STATE_BYTES:
            raise InvalidArgument(
                f"client_state: got {len(client_state)} bytes, "
                f"expected at most {MAX_CLIENT_STATE_BYTES}"
            )
        request = sequence_pb2.CreateSequenceRequest(cache=cache.id, client_state=client_state)
        if prefix_keys is not None:
            keys, tokens = _prefix(cache, "prefix_keys", prefix_keys, num_tokens)
            request.prefix.keys.extend(keys)
            request.prefix.num_tokens = tokens
        elif num_tokens is not None:
            raise InvalidArgument(
                f"num_tokens: got {num_tokens} without prefix_keys, expected None"
            )
        response = await self._ask(
            "CreateSequence", request, sequence_pb2.CreateSequenceResponse, idempotent=False
        )
        sequence = self._sequence_type(
            self, cache, response.sequence, state_version=1 if client_state else 0
        )
        sequence.matched_tokens = response.matched_tokens
        return sequence

    async def _match_prefix(self, cache: KvCache, keys: Seq[bytes], num_tokens: int) -> int:
        keys, tokens = _prefix(cache, "keys", keys, num_tokens)
        response = await self._ask(
            "MatchPrefix",
            sequence_pb2.MatchPrefixRequest(cache=cache.id, keys=keys, num_tokens=tokens),
            sequence_pb2.MatchPrefixResponse,
        )
        return response.matched_tokens  # type: ignore[no-any-return]

    async def _attend(
        self, items: Seq[Item], *, timeout_s: float | None = None, check: bool = True
    ) -> AttendResult:
        request = self._pack(items)
        response = await self.client._with_tensors("Attend", request, timeout_s=timeout_s)
        self._last_call = time.monotonic()
        return checked(unpack_attend(response, items), check)

    def _pack(self, items: Seq[Item], request_id: int = 0) -> bytes:
        self._check_open()
        for index, item in enumerate(items):
            if item.sequence.session is not self:
                raise InvalidArgument(
                    f"items[{index}].sequence: got one of another session, expected this one's"
                )
        return pack_attend(self.id, self.epoch, items, request_id=request_id)

    async def _list_sequences(self) -> list[Any]:
        response = await self._ask(
            "ListSequences",
            sequence_pb2.ListSequencesRequest(),
            sequence_pb2.ListSequencesResponse,
        )
        return await self._handles(response.sequences) if response.sequences else []

    async def _renew(self) -> None:
        response = await self._ask_session(
            "RenewLease",
            session_pb2.RenewLeaseRequest(session=self.id, epoch=self.epoch),
            session_pb2.RenewLeaseResponse,
        )
        self.lease_s = response.lease_ms / 1e3

    async def _close(self) -> None:
        if self._lost or self.inherited:
            return
        try:
            await self._ask_session(
                "CloseSession",
                session_pb2.CloseSessionRequest(session=self.id, epoch=self.epoch),
                session_pb2.CloseSessionResponse,
            )
        except (NotFound, Aborted):
            pass  # It ended by itself, or is another client's now.
        finally:
            self._lost = self._lost or "it was closed"
            self._end_lease()

    async def _ask(
        self, method: str, request: Any, response_type: Any, *, idempotent: bool = True
    ) -> Any:
        """A method of SequenceService, in the name of this session."""
        self._check_open()
        request.session.CopyFrom(self.id)
        request.epoch = self.epoch
        response = await self.client._ask(
            "SequenceService", method, request, response_type, idempotent=idempotent
        )
        self._last_call = time.monotonic()
        return response

    async def _ask_session(self, method: str, request: Any, response_type: Any) -> Any:
        self._check_open()
        response = await self.client._ask("SessionService", method, request, response_type)
        self._last_call = time.monotonic()
        return response

    def _check_open(self) -> None:
        self.check_process()
        if self._lost:
            raise SessionLost(f"the session is not this client's any more: {self._lost}")

    async def _handles(self, infos: Any) -> list[Any]:
        caches = {_key(cache.id): cache for cache in await self.client._list_caches()}
        kind = self._sequence_type
        return [kind.from_info(self, caches[_key(info.cache)], info) for info in infos]

    def __repr__(self) -> str:
        state = f", lost: {self._lost}" if self._lost else ""
        return f"{type(self).__name__}(epoch={self.epoch}, lease_s={self.lease_s}{state})"


def checked(results: AttendResult, check: bool) -> AttendResult:
    """The results; where asked for, the first error in them is raised, all of them in it."""
    failed = next((result.error for result in results if result.error), None)
    if check and failed is not None:
        failed.results = results
        raise failed
    return results


def _prefix(
    cache: KvCache, name: str, keys: Seq[bytes], num_tokens: int | None
) -> tuple[list[bytes], int]:
    """Checks what names a prompt, before it is sent."""
    if num_tokens is None:
        raise InvalidArgument(f"num_tokens: got None, expected the prompt's length with {name}")
    tokens = integer("num_tokens", num_tokens, least=1)
    keys = check_keys(name, keys)
    page = cache.geometry.page_size_tokens
    if len(keys) > tokens // page:
        raise InvalidArgument(
            f"{name}: got {len(keys)} keys of pages of {page} tokens for a prompt of {tokens}, "
            f"expected at most {tokens // page}"
        )
    return keys, tokens


def _key(id_: types_pb2.Id) -> tuple[int, int]:
    return (id_.boot, id_.handle)
