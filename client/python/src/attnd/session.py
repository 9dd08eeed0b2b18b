# SPDX-License-Identifier: Apache-2.0
"""Sessions: who holds sequences, until when, and who takes them up again."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence as Seq
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attnd._proto import sequence_pb2, session_pb2, types_pb2
from attnd.attention import AttendResult, Item, pack_attend, unpack_attend
from attnd.errors import Aborted, AttndError, InvalidArgument, NotFound, SessionLost
from attnd.options import integer
from attnd.prefix import check_keys
from attnd.process import ProcessBound
from attnd.sequence import MAX_CLIENT_STATE_BYTES, Sequence

if TYPE_CHECKING:
    from attnd.client import Client, KvCache


class Session(ProcessBound):
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

    def __init__(
        self,
        client: Client,
        opened: session_pb2.OpenSessionResponse | session_pb2.ResumeSessionResponse,
    ) -> None:
        super().__init__()
        self.noun = f"a session of {client.noun}"
        self.client = client
        self.id: types_pb2.Id = opened.session
        self.token: bytes = opened.token
        self.epoch: int = opened.epoch
        self.lease_s: float = opened.lease_ms / 1e3
        self._stop = threading.Event()
        self._lost: str = ""
        self._last_call = time.monotonic()
        self.sequences: list[Sequence] = []
        if isinstance(opened, session_pb2.ResumeSessionResponse) and opened.sequences:
            self.sequences = self._handles(opened.sequences)
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
        response = self.call(
            "CreateSequence", request, sequence_pb2.CreateSequenceResponse, idempotent=False
        )
        sequence = Sequence(self, cache, response.sequence, state_version=1 if client_state else 0)
        sequence.matched_tokens = response.matched_tokens
        return sequence

    def match_prefix(self, cache: KvCache, keys: Seq[bytes], num_tokens: int) -> int:
        """How many tokens `create_sequence` would match now. Changes and promises nothing.

        Raises:
            NotFound, InvalidArgument: as `create_sequence`.
        """
        keys, tokens = _prefix(cache, "keys", keys, num_tokens)
        response = self.call(
            "MatchPrefix",
            sequence_pb2.MatchPrefixRequest(cache=cache.id, keys=keys, num_tokens=tokens),
            sequence_pb2.MatchPrefixResponse,
        )
        return response.matched_tokens  # type: ignore[no-any-return]

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
        self._check_open()
        for index, item in enumerate(items):
            if item.sequence.session is not self:
                raise InvalidArgument(
                    f"items[{index}].sequence: got one of another session, expected this one's"
                )
        request = pack_attend(self.id, self.epoch, items)
        response = self.client.call_with_tensors("Attend", request, timeout_s=timeout_s)
        self._last_call = time.monotonic()
        results = unpack_attend(response, items)
        failed = next((result.error for result in results if result.error), None)
        if check and failed is not None:
            failed.results = results
            raise failed
        return results

    def list_sequences(self) -> list[Sequence]:
        """Handles of all sequences of this session, with `info` filled in but client_state."""
        response = self.call(
            "ListSequences",
            sequence_pb2.ListSequencesRequest(),
            sequence_pb2.ListSequencesResponse,
        )
        return self._handles(response.sequences) if response.sequences else []

    def renew(self) -> None:
        """Starts the lease anew; the background thread does this by itself.

        Raises:
            NotFound, Aborted: the session has expired, or was resumed by another client.
        """
        response = self._session_call(
            "RenewLease",
            session_pb2.RenewLeaseRequest(session=self.id, epoch=self.epoch),
            session_pb2.RenewLeaseResponse,
        )
        self.lease_s = response.lease_ms / 1e3

    def release(self) -> bytes:
        """Stops renewing and forgets the session without closing it; returns its token."""
        self.check_process()
        self._lost = self._lost or "it was released"
        self._stop.set()
        return self.token

    def close(self) -> None:
        """Ends the session and frees its sequences. Harmless twice, and in a fork."""
        if self._lost or self.inherited:
            return
        try:
            self._session_call(
                "CloseSession",
                session_pb2.CloseSessionRequest(session=self.id, epoch=self.epoch),
                session_pb2.CloseSessionResponse,
            )
        except (NotFound, Aborted):
            pass  # It ended by itself, or is another client's now.
        finally:
            self._lost = self._lost or "it was closed"
            self._stop.set()

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

    def __repr__(self) -> str:
        state = f", lost: {self._lost}" if self._lost else ""
        return f"Session(epoch={self.epoch}, lease_s={self.lease_s}{state})"

    def call(
        self, method: str, request: Any, response_type: Any, *, idempotent: bool = True
    ) -> Any:
        """A method of SequenceService, in the name of this session."""
        self._check_open()
        request.session.CopyFrom(self.id)
        request.epoch = self.epoch
        response = self.client.call(
            "SequenceService", method, request, response_type, idempotent=idempotent
        )
        self._last_call = time.monotonic()
        return response

    def _session_call(self, method: str, request: Any, response_type: Any) -> Any:
        self._check_open()
        response = self.client.call("SessionService", method, request, response_type)
        self._last_call = time.monotonic()
        return response

    def _check_open(self) -> None:
        self.check_process()
        if self._lost:
            raise SessionLost(f"the session is not this client's any more: {self._lost}")

    def _handles(self, infos: Any) -> list[Sequence]:
        caches = {_key(cache.id): cache for cache in self.client.list_caches()}
        return [Sequence.from_info(self, caches[_key(info.cache)], info) for info in infos]


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
