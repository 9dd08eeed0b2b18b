# SPDX-License-Identifier: Apache-2.0
"""Sessions: who holds sequences, until when, and who takes them up again."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence as Seq
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attnd._proto import session_pb2
from attnd.attention import AttendResult, Item
from attnd.calls import run
from attnd.errors import Aborted, AttndError, NotFound, SessionLost
from attnd.sequence import Sequence
from attnd.session_calls import SessionCalls

if TYPE_CHECKING:
    from attnd.client import Client, KvCache


class Session(SessionCalls):
    """A session of this client; from `Client.open_session` or `Client.resume_session`.

    Its lease is renewed by a background thread at a third of its length, as long as this object
    lives. `with` closes the session at the end, which frees its sequences; `release` lets go of it
    and leaves everything to whoever resumes it. In a fork of the process every use raises
    `ForkedProcess`, but for `close`, which does nothing: the session is the parent's.

    Attributes:
        id: of the daemon; opaque.
        token: the secret of 16 bytes that resumes the session. Keep it, never print it.
        epoch: counts the resumes.
        lease_s: what the daemon granted.
        sequences: after a resume, the handles of what the session holds, with `info` filled in.
    """

    client: Client
    sequences: list[Sequence]
    _sequence_type = Sequence

    def __init__(
        self,
        client: Client,
        opened: session_pb2.OpenSessionResponse | session_pb2.ResumeSessionResponse,
    ) -> None:
        super().__init__(client, opened)
        self._stop = threading.Event()
        if isinstance(opened, session_pb2.ResumeSessionResponse) and opened.sequences:
            self.sequences = run(self._handles(opened.sequences))
        if self.lease_s > 0:
            _LeaseKeeper(self).start()

    def create_sequence(
        self,
        cache: KvCache,
        *,
        client_state: bytes = b"",
        prefix_keys: Seq[bytes] | None = None,
        num_tokens: int | None = None,
    ) -> Sequence:
        """A new sequence in `cache`: empty, or with the published pages that a prompt begins with.

        With `prefix_keys` the daemon shares the longest run of pages published under these keys, in
        the order given, and `matched_tokens` of the handle says how many tokens need not be
        computed again; at least one always has to be.

        Args:
            client_state: at most 1 MiB of opaque state.
            prefix_keys: content keys of the prompt's full pages (`attnd.prefix.page_keys`), each 16
                to 64 bytes, at most num_tokens // page_size_tokens of them.
            num_tokens: of the prompt, at least 1; goes with prefix_keys.

        Raises:
            NotFound: the cache is unknown, or from before a restart of the daemon.
            InvalidArgument: client_state is above 1 MiB, a key has another size, or there are more
                keys than the prompt has full pages.
        """
        sequence: Sequence = run(
            self._create_sequence(
                cache, client_state=client_state, prefix_keys=prefix_keys, num_tokens=num_tokens
            )
        )
        return sequence

    def match_prefix(self, cache: KvCache, keys: Seq[bytes], num_tokens: int) -> int:
        """How many tokens `create_sequence` would match now. Changes and promises nothing.

        Raises:
            NotFound, InvalidArgument: as `create_sequence`.
        """
        return run(self._match_prefix(cache, keys, num_tokens))

    def attend(
        self, items: Seq[Item], *, timeout_s: float | None = None, check: bool = True
    ) -> AttendResult:
        """Writes new keys and values and attends, for many sequences and layers in one call.

        A failed connection is retried with the same steps, which is harmless.

        Args:
            items: at least 1; at most one per (sequence, layer).
            timeout_s: for all attempts; None: the client's default.
            check: raise the first failed item's error, with all outcomes in its `results`. False:
                leave the errors in the results.

        Raises:
            InvalidArgument, TypeError: an argument does not fit; names item, argument and value.
            NotFound: a sequence is stale. FailedPrecondition: a hole in positions.
            Aborted: a lower step or epoch than the newest.
            ResourceExhausted: no pages; `needed_pages` and `free_pages` say by how much.
            MessageTooLarge: over the daemon's message limit. Unavailable: the queue stayed full.
        """
        return run(self._attend(items, timeout_s=timeout_s, check=check))

    def list_sequences(self) -> list[Sequence]:
        """Handles of all sequences of this session, with `info` filled in but client_state."""
        return run(self._list_sequences())

    def renew(self) -> None:
        """Starts the lease anew; the background thread does this by itself.

        Raises:
            NotFound, Aborted: the session has expired, or was resumed by another client.
        """
        run(self._renew())

    def close(self) -> None:
        """Ends the session and frees its sequences. Harmless twice, and in a fork."""
        run(self._close())

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except AttndError:
            if error is None:
                raise

    def call(
        self, method: str, request: Any, response_type: Any, *, idempotent: bool = True
    ) -> Any:
        """A method of SequenceService, in the name of this session."""
        return run(self._ask(method, request, response_type, idempotent=idempotent))

    def _end_lease(self) -> None:
        self._stop.set()


class _LeaseKeeper(threading.Thread):
    """Renews a session's lease until it is closed, lost, or no longer referenced."""

    def __init__(self, session: Session) -> None:
        super().__init__(name="attnd-lease", daemon=True)
        self._session = weakref.ref(session)
        self._stop_event = session._stop
        self._interval_s = session.lease_s / 3

    def run(self) -> None:
        wait_s = self._interval_s
        while not self._stop_event.wait(wait_s):
            session = self._session()
            if session is None:
                return
            wait_s = self._interval_s - (time.monotonic() - session._last_call)
            if wait_s > 0:
                continue  # Another call has renewed the lease meanwhile.
            wait_s = self._interval_s
            try:
                session.renew()
            except (NotFound, Aborted) as error:
                session._lost = str(error)
                return
            except SessionLost:
                return
            except AttndError:
                wait_s = self._interval_s / 4  # The daemon is busy or away: ask again soon.
            except Exception:  # noqa: BLE001 - the channel was closed: nothing is left to renew
                return
            del session
