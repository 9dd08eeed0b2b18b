# SPDX-License-Identifier: Apache-2.0
"""Sequences: the keys and values of one stream of tokens in all layers of a cache."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from attnd._proto import sequence_pb2
from attnd.calls import run
from attnd.sequence_calls import SequenceCalls

if TYPE_CHECKING:
    from attnd.session import Session


class Sequence(SequenceCalls):
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

    session: Session

    def describe(self) -> sequence_pb2.SequenceInfo:
        """Asks the daemon for lengths, steps, pages and client_state.

        Raises:
            NotFound: it was freed, or is from before a restart of the daemon.
        """
        return run(self._describe())

    def fork(self, length: int | None = None) -> Sequence:
        """A new sequence that shares the first `length` tokens, copied only when written to.

        Args:
            length: in tokens; None: all of them.

        Raises:
            FailedPrecondition: length exceeds every layer's length.
            NotFound: this sequence is stale.
        """
        return run(self._fork(length))

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
        return run(self._publish(keys, first_page))

    def truncate(self, length: int) -> None:
        """Shortens every layer to at most `length` tokens. Raises NotFound where stale."""
        run(self._truncate(length))

    def free(self) -> None:
        """Gives its pages back. Raises NotFound where it was freed before."""
        run(self._free())

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
        return run(self._set_client_state(state, expected_version=expected_version))
