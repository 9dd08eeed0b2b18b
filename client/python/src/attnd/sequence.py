# SPDX-License-Identifier: Apache-2.0
"""Sequences: the keys and values of one stream of tokens in all layers of a cache."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from attnd._proto import sequence_pb2, types_pb2
from attnd.errors import Aborted, AttndError, InvalidArgument, NotFound
from attnd.options import integer
from attnd.prefix import check_keys
from attnd.process import ProcessBound

if TYPE_CHECKING:
    from attnd.client import KvCache
    from attnd.session import Session

MAX_CLIENT_STATE_BYTES = 1 << 20


class Sequence(ProcessBound):
    """A handle; from `Session.create_sequence`, `fork`, or a resumed session.

    Attributes:
        session: that holds it.
        cache: that it lives in.
        id: of the daemon; opaque.
        info: what the daemon said last (`describe`), None before: layer_lengths and layer_steps,
            pages, client_state and its version.
        state_version: of the client_state this handle knows; 0: none was set.
        matched_tokens: that the sequence was created with, in every layer; 0 without a prefix.
    """

    def __init__(
        self, session: Session, cache: KvCache, id_: types_pb2.Id, *, state_version: int = 0
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
    def from_info(
        cls, session: Session, cache: KvCache, info: sequence_pb2.SequenceInfo
    ) -> Sequence:
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

    def describe(self) -> sequence_pb2.SequenceInfo:
        """Asks the daemon for lengths, steps, pages and client_state.

        Raises:
            NotFound: it was freed, or is from before a restart of the daemon.
        """
        response = self.session.call(
            "DescribeSequence",
            sequence_pb2.DescribeSequenceRequest(sequence=self.id),
            sequence_pb2.DescribeSequenceResponse,
        )
        self._remember(response.sequence)
        return response.sequence  # type: ignore[no-any-return]

    def fork(self, length: int | None = None) -> Sequence:
        """A new sequence that shares the first `length` tokens, copied only when written to.

        Args:
            length: in tokens; None: all of them.

        Raises:
            FailedPrecondition: length exceeds every layer's length.
            NotFound: this sequence is stale.
        """
        request = sequence_pb2.ForkSequenceRequest(sequence=self.id)
        if length is not None:
            request.length = integer("length", length)
        response = self.session.call(
            "ForkSequence", request, sequence_pb2.ForkSequenceResponse, idempotent=False
        )
        return Sequence(
            self.session, self.cache, response.sequence, state_version=self.state_version
        )

    def publish(self, keys: Seq[bytes], first_page: int = 0) -> int:
        """Publishes full pages under content keys, for later sequences that begin the same.

        A published page never changes: a later write into it goes to a copy. A key that is
        published already keeps its page. Harmless twice.

        Args:
            keys: of pages first_page, first_page + 1, ..., each 16 to 64 bytes, at most 65,536
                (`attnd.prefix.page_keys(...)[first_page:]`).
            first_page: index of the page that keys[0] names.

        Returns:
            How many pages are published under these keys now, by whomever: len(keys).

        Raises:
            FailedPrecondition: a page is not complete in every layer, or has another key.
            InvalidArgument: a key has another size, or there are too many.
            NotFound: this sequence is stale. DataLoss: its device failed.
        """
        response = self.session.call(
            "PublishPrefix",
            sequence_pb2.PublishPrefixRequest(
                sequence=self.id,
                first_page=integer("first_page", first_page),
                keys=check_keys("keys", keys),
            ),
            sequence_pb2.PublishPrefixResponse,
        )
        return response.pages  # type: ignore[no-any-return]

    def truncate(self, length: int) -> None:
        """Shortens every layer to at most `length` tokens. Raises NotFound where stale."""
        self.session.call(
            "TruncateSequence",
            sequence_pb2.TruncateSequenceRequest(
                sequence=self.id, length=integer("length", length)
            ),
            sequence_pb2.TruncateSequenceResponse,
        )

    def free(self) -> None:
        """Gives its pages back. Raises NotFound where it was freed before."""
        request = sequence_pb2.FreeSequenceRequest(sequence=self.id)
        response_type = sequence_pb2.FreeSequenceResponse
        try:
            self.session.call("FreeSequence", request, response_type, idempotent=False)
        except AttndError as error:
            if not error.from_channel:
                raise
            with contextlib.suppress(NotFound):  # The first attempt was executed after all.
                self.session.call("FreeSequence", request, response_type)

    def set_client_state(self, state: bytes, *, expected_version: int | None = None) -> int:
        """Replaces the opaque state where its version is still the expected one.

        A failed connection is retried; where the first attempt turns out to have been executed,
        that is a success.

        Args:
            state: at most 1 MiB.
            expected_version: None: the version that this handle knows.

        Returns:
            The new version.

        Raises:
            Aborted: another client has changed it; `describe` brings what is there.
            InvalidArgument: above 1 MiB.
        """
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
            response = self.session.call("SetClientState", request, response_type, idempotent=False)
            self.state_version = response.version
        except AttndError as error:
            if not error.from_channel:
                raise
            self._set_again(request)
        return self.state_version

    def _set_again(self, request: sequence_pb2.SetClientStateRequest) -> None:
        """After a failed connection: the first attempt was possibly executed."""
        try:
            response = self.session.call(
                "SetClientState", request, sequence_pb2.SetClientStateResponse
            )
            self.state_version = response.version
        except Aborted:
            known = self.state_version
            info = self.describe()
            if info.client_state != request.client_state:
                self.state_version = known
                raise

    def _remember(self, info: sequence_pb2.SequenceInfo) -> None:
        self.info = info
        self.state_version = info.client_state_version
        for layer, step in enumerate(info.layer_steps):
            self._steps[layer] = max(self._steps[layer], step)

    def __repr__(self) -> str:
        return f"Sequence(cache={self.cache.name!r}, handle={self.id.handle:#x})"
