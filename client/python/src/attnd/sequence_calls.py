# SPDX-License-Identifier: Apache-2.0
"""Sequences: what a handle knows, and its calls (see `attnd.calls`)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any, Self

from attnd._proto import sequence_pb2, types_pb2
from attnd.errors import Aborted, AttndError, InvalidArgument, NotFound
from attnd.options import integer
from attnd.prefix import check_keys
from attnd.process import ProcessBound

if TYPE_CHECKING:
    from attnd.client_calls import KvCache

MAX_CLIENT_STATE_BYTES = 1 << 20


class SequenceCalls(ProcessBound):
    """The handle; its public methods are those of `Sequence` and `AsyncSequence`."""

    def __init__(
        self, session: Any, cache: KvCache, id_: types_pb2.Id, *, state_version: int = 0
    ) -> None:
        super().__init__()
        self.session = session
        self.cache = cache
        self.id = id_
        self.info: sequence_pb2.SequenceInfo | None = None
        self.state_version = state_version
        self.matched_tokens = 0
        self._steps = [0] * cache.geometry.num_layers

    @classmethod
    def from_info(cls, session: Any, cache: KvCache, info: sequence_pb2.SequenceInfo) -> Self:
        """A handle of a sequence that exists in the daemon."""
        sequence = cls(session, cache, info.sequence)
        sequence._remember(info)
        return sequence

    @property
    def client_state(self) -> bytes:
        """The state as `describe` or a resume brought it; b"" before."""
        return self.info.client_state if self.info is not None else b""

    @property
    def length(self) -> int:
        """Tokens complete in every layer, as `describe` or a resume saw it; 0 before."""
        return min(self.info.layer_lengths, default=0) if self.info is not None else 0

    def next_step(self, layer: int) -> int:
        """Draws the next step of a layer: the one after the newest that this handle knows."""
        self._steps[layer] += 1
        return self._steps[layer]

    async def _describe(self) -> sequence_pb2.SequenceInfo:
        response = await self.session._ask(
            "DescribeSequence",
            sequence_pb2.DescribeSequenceRequest(sequence=self.id),
            sequence_pb2.DescribeSequenceResponse,
        )
        self._remember(response.sequence)
        return response.sequence  # type: ignore[no-any-return]

    async def _fork(self, length: int | None = None) -> Self:
        request = sequence_pb2.ForkSequenceRequest(sequence=self.id)
        if length is not None:
            request.length = integer("length", length)
        response = await self.session._ask(
            "ForkSequence", request, sequence_pb2.ForkSequenceResponse, idempotent=False
        )
        return type(self)(
            self.session, self.cache, response.sequence, state_version=self.state_version
        )

    async def _publish(self, keys: Seq[bytes], first_page: int = 0) -> int:
        response = await self.session._ask(
            "PublishPrefix",
            sequence_pb2.PublishPrefixRequest(
                sequence=self.id,
                first_page=integer("first_page", first_page),
                keys=check_keys("keys", keys),
            ),
            sequence_pb2.PublishPrefixResponse,
        )
        return response.pages  # type: ignore[no-any-return]

    async def _truncate(self, length: int) -> None:
        await self.session._ask(
            "TruncateSequence",
            sequence_pb2.TruncateSequenceRequest(
                sequence=self.id, length=integer("length", length)
            ),
            sequence_pb2.TruncateSequenceResponse,
        )

    async def _free(self) -> None:
        request = sequence_pb2.FreeSequenceRequest(sequence=self.id)
        response_type = sequence_pb2.FreeSequenceResponse
        try:
            await self.session._ask("FreeSequence", request, response_type, idempotent=False)
        except AttndError as error:
            if not error.from_channel:
                raise
            with contextlib.suppress(NotFound):  # The first attempt was executed after all.
                await self.session._ask("FreeSequence", request, response_type)

    async def _set_client_state(self, state: bytes, *, expected_version: int | None = None) -> int:
        if len(state) > MAX_CLIENT_STATE_BYTES:
            raise InvalidArgument(
                f"state: got {len(state)} bytes, expected at most {MAX_CLIENT_STATE_BYTES}"
            )
        expected = self.state_version if expected_version is None else expected_version
        request = sequence_pb2.SetClientStateRequest(
            sequence=self.id,
            expected_version=integer("expected_version", expected),
            client_state=state,
        )
        response_type = sequence_pb2.SetClientStateResponse
        try:
            response = await self.session._ask(
                "SetClientState", request, response_type, idempotent=False
            )
            self.state_version = response.version
        except AttndError as error:
            if not error.from_channel:
                raise
            await self._set_again(request)
        return self.state_version

    async def _set_again(self, request: sequence_pb2.SetClientStateRequest) -> None:
        """After a failed connection: the first attempt was possibly executed."""
        try:
            response = await self.session._ask(
                "SetClientState", request, sequence_pb2.SetClientStateResponse
            )
            self.state_version = response.version
        except Aborted:
            known = self.state_version
            info = await self._describe()
            if info.client_state != request.client_state:
                self.state_version = known
                raise

    def _remember(self, info: sequence_pb2.SequenceInfo) -> None:
        self.info = info
        self.state_version = info.client_state_version
        for layer, step in enumerate(info.layer_steps):
            self._steps[layer] = max(self._steps[layer], step)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cache={self.cache.name!r}, handle={self.id.handle:#x})"
