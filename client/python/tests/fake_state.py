# SPDX-License-Identifier: Apache-2.0
"""What the fake daemon keeps: caches, sessions, sequences, and the methods that change them."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field

import grpc
import numpy as np

from attnd._proto import admin_pb2, cache_pb2, sequence_pb2, session_pb2, types_pb2

Code = grpc.StatusCode
Reason = types_pb2.ErrorDetail


class Refused(Exception):
    """A status other than OK."""

    def __init__(self, code: Code, message: str, **detail: int) -> None:
        super().__init__(message)
        self.code, self.message, self.detail = code, message, detail


def stale(what: str) -> Refused:
    return Refused(Code.NOT_FOUND, f"unknown or stale {what}", reason=Reason.STALE_ID)


@dataclass(eq=False)
class FakePage:
    """A published page: what each layer held in it."""

    key: bytes
    keys: list[np.ndarray]  # a layer: [page_size_tokens, num_kv_heads, head_dim_k]
    values: list[np.ndarray]


@dataclass
class FakeCache:
    id: int
    name: str
    geometry: types_pb2.CacheGeometry
    published: dict[tuple[str, bytes], FakePage] = field(default_factory=dict)  # (tenant, key)


@dataclass
class FakeSequence:
    id: int
    cache: FakeCache
    keys: list[np.ndarray]  # a layer: [tokens, num_kv_heads, head_dim_k]
    values: list[np.ndarray]
    steps: list[int]
    state: bytes = b""
    state_version: int = 0
    pages: dict[int, FakePage] = field(default_factory=dict)  # those that are published

    def keep_pages(self, count: int) -> None:
        """Those behind are gone, or were written to and are not what was published."""
        self.pages = {index: page for index, page in self.pages.items() if index < count}


@dataclass
class FakeSession:
    id: int
    token_hash: bytes
    epoch: int
    lease_ms: int
    label: str = ""
    expires_s: float = 0.0
    tenant: str = ""
    sequences: dict[int, FakeSequence] = field(default_factory=dict)


class FakeState:
    """One method per RPC of the cache, session and sequence services. Not thread-safe."""

    max_state_bytes = 1 << 20

    def __init__(self) -> None:
        self.boot = secrets.randbits(64)
        self.handles = iter(range(1, 2**62))
        self.caches: dict[int, FakeCache] = {}
        self.sessions: dict[int, FakeSession] = {}
        self.stats = admin_pb2.GetStatsResponse(version="fake", backend="fake", device="numpy")

    # Ids.

    def id(self, handle: int) -> types_pb2.Id:
        return types_pb2.Id(boot=self.boot, handle=handle)

    def find(self, table: dict, id_: types_pb2.Id, what: str):
        if id_.boot != self.boot or id_.handle not in table:
            raise stale(what)
        return table[id_.handle]

    def session(self, request) -> FakeSession:
        session = self.find(self.sessions, request.session, "session")
        if session.expires_s < time.monotonic():
            del self.sessions[session.id]
            raise stale("session")
        if request.epoch != session.epoch:
            raise Refused(
                Code.ABORTED,
                f"epoch {request.epoch} was superseded by {session.epoch}",
                reason=Reason.SUPERSEDED,
            )
        session.expires_s = time.monotonic() + session.lease_ms / 1e3
        return session

    def sequence(self, request) -> FakeSequence:
        return self.find(self.session(request).sequences, request.sequence, "sequence")

    # CacheService.

    def open_cache(self, request):
        geometry = request.geometry
        geometry.head_dim_v = geometry.head_dim_v or geometry.head_dim_k
        geometry.page_size_tokens = geometry.page_size_tokens or 16
        if geometry.num_kv_heads < 1 or geometry.num_query_heads % geometry.num_kv_heads:
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"num_query_heads: {geometry.num_query_heads} is no multiple of "
                f"num_kv_heads {geometry.num_kv_heads}",
            )
        for cache in self.caches.values():
            if cache.name == request.name:
                for descriptor, value in geometry.ListFields():
                    if getattr(cache.geometry, descriptor.name) != value:
                        raise Refused(Code.FAILED_PRECONDITION, f"{descriptor.name} differs")
                return cache_pb2.OpenCacheResponse(cache=self.id(cache.id), info=self.info(cache))
        cache = FakeCache(next(self.handles), request.name, geometry)
        self.caches[cache.id] = cache
        return cache_pb2.OpenCacheResponse(
            cache=self.id(cache.id), info=self.info(cache), created=True
        )

    def info(self, cache: FakeCache):
        sequences = [s for session in self.sessions.values() for s in session.sequences.values()]
        held = {page for s in sequences if s.cache is cache for page in s.pages.values()}
        return cache_pb2.CacheInfo(
            cache=self.id(cache.id),
            name=cache.name,
            geometry=cache.geometry,
            pages_cached=len(set(cache.published.values()) - held),
        )

    def close_cache(self, request):
        cache = self.find(self.caches, request.cache, "cache")
        for session in self.sessions.values():
            if any(sequence.cache is cache for sequence in session.sequences.values()):
                raise Refused(Code.FAILED_PRECONDITION, "sequences live in the cache")
        del self.caches[cache.id]
        return cache_pb2.CloseCacheResponse()

    def list_caches(self, request):
        return cache_pb2.ListCachesResponse(caches=map(self.info, self.caches.values()))

    # SessionService.

    def open_session(self, request):
        if len(request.tenant.encode()) > 128:
            raise Refused(Code.INVALID_ARGUMENT, "tenant: above 128 bytes")
        token = secrets.token_bytes(16)
        session = FakeSession(
            next(self.handles), _hash(token), 1, request.lease_ms or 60_000, request.label
        )
        session.tenant = request.tenant
        session.expires_s = time.monotonic() + session.lease_ms / 1e3
        self.sessions[session.id] = session
        return session_pb2.OpenSessionResponse(
            session=self.id(session.id), token=token, epoch=1, lease_ms=session.lease_ms
        )

    def resume_session(self, request):
        for session in self.sessions.values():
            if session.token_hash == _hash(request.token):
                break
        else:
            raise stale("token")
        if session.expires_s < time.monotonic():
            raise stale("token")
        token = secrets.token_bytes(16)
        session.token_hash = _hash(token)
        session.epoch += 1
        session.lease_ms = request.lease_ms or session.lease_ms
        session.expires_s = time.monotonic() + session.lease_ms / 1e3
        return session_pb2.ResumeSessionResponse(
            session=self.id(session.id),
            token=token,
            epoch=session.epoch,
            lease_ms=session.lease_ms,
            sequences=[self.describe(s, state=True) for s in session.sequences.values()],
        )

    def renew_lease(self, request):
        return session_pb2.RenewLeaseResponse(lease_ms=self.session(request).lease_ms)

    def close_session(self, request):
        del self.sessions[self.session(request).id]
        return session_pb2.CloseSessionResponse()

    # SequenceService.

    def describe(self, sequence: FakeSequence, *, state: bool):
        return sequence_pb2.SequenceInfo(
            sequence=self.id(sequence.id),
            cache=self.id(sequence.cache.id),
            layer_lengths=[len(keys) for keys in sequence.keys],
            layer_steps=sequence.steps,
            client_state=sequence.state if state else b"",
            client_state_version=sequence.state_version,
        )

    def create_sequence(self, request):
        session = self.session(request)
        cache = self.find(self.caches, request.cache, "cache")
        shape = cache.geometry
        layers = range(shape.num_layers)
        run, matched = [], 0
        if request.HasField("prefix"):
            keys, num_tokens = request.prefix.keys, request.prefix.num_tokens
            run, matched = self.match(session, cache, keys, num_tokens)
            self.stats.prefix_tokens_queried_total += num_tokens
            self.stats.prefix_tokens_matched_total += matched
        no_keys = np.zeros((0, shape.num_kv_heads, shape.head_dim_k), np.float32)
        no_values = np.zeros((0, shape.num_kv_heads, shape.head_dim_v), np.float32)
        sequence = FakeSequence(
            next(self.handles),
            cache,
            [np.concatenate([no_keys, *(p.keys[i] for p in run)])[:matched] for i in layers],
            [np.concatenate([no_values, *(p.values[i] for p in run)])[:matched] for i in layers],
            [0 for _ in layers],
            request.client_state,
            1 if request.client_state else 0,
            dict(enumerate(run)),
        )
        session.sequences[sequence.id] = sequence
        return sequence_pb2.CreateSequenceResponse(
            sequence=self.id(sequence.id), matched_tokens=matched
        )

    def match(self, session: FakeSession, cache: FakeCache, keys, num_tokens: int):
        """The published pages that hold the prompt's longest known prefix, and its length."""
        page_size = cache.geometry.page_size_tokens
        check_keys(keys)
        if num_tokens < 1 or len(keys) > num_tokens // page_size:
            raise Refused(Code.INVALID_ARGUMENT, f"num_tokens: {num_tokens} for {len(keys)} keys")
        run = []
        for key in keys:
            page = cache.published.get((session.tenant, key))
            if page is None:
                break
            run.append(page)
        matched = min(len(run) * page_size, num_tokens - 1)
        return run[: -(-matched // page_size)], matched

    def match_prefix(self, request):
        session = self.session(request)
        cache = self.find(self.caches, request.cache, "cache")
        _, matched = self.match(session, cache, request.keys, request.num_tokens)
        return sequence_pb2.MatchPrefixResponse(matched_tokens=matched)

    def publish_prefix(self, request):
        session, sequence = self.session(request), self.sequence(request)
        check_keys(request.keys)
        if request.first_page < 0:
            raise Refused(Code.INVALID_ARGUMENT, f"first_page: {request.first_page} is negative")
        published, page_size = sequence.cache.published, sequence.cache.geometry.page_size_tokens
        end = (request.first_page + len(request.keys)) * page_size
        for layer, keys in enumerate(sequence.keys):
            if request.keys and len(keys) < end:
                raise Refused(
                    Code.FAILED_PRECONDITION,
                    f"layer {layer} holds {len(keys)} tokens, the pages end at {end}",
                )
        pages = dict(enumerate(request.keys, request.first_page))
        for index, key in pages.items():
            if index in sequence.pages and sequence.pages[index].key != key:
                raise Refused(
                    Code.FAILED_PRECONDITION, f"page {index} is published under another key"
                )
        new_pages = 0
        for index, key in pages.items():
            if (session.tenant, key) in published:
                continue
            part = slice(index * page_size, (index + 1) * page_size)
            page = FakePage(
                key, [keys[part] for keys in sequence.keys], [v[part] for v in sequence.values]
            )
            published[session.tenant, key] = sequence.pages[index] = page
            new_pages += 1
        return sequence_pb2.PublishPrefixResponse(pages=len(pages), new_pages=new_pages)

    def fork_sequence(self, request):
        session, parent = self.session(request), self.sequence(request)
        longest = max(map(len, parent.keys))
        length = request.length if request.HasField("length") else longest
        if length > longest:
            raise Refused(Code.FAILED_PRECONDITION, f"length {length} exceeds {longest}")
        child = FakeSequence(
            next(self.handles),
            parent.cache,
            [keys[:length] for keys in parent.keys],
            [values[:length] for values in parent.values],
            [0] * len(parent.steps),
            parent.state,
            parent.state_version,
            dict(parent.pages),
        )
        child.keep_pages(-(-length // parent.cache.geometry.page_size_tokens))
        session.sequences[child.id] = child
        return sequence_pb2.ForkSequenceResponse(sequence=self.id(child.id))

    def truncate_sequence(self, request):
        sequence = self.sequence(request)
        if request.length < 0:
            raise Refused(Code.INVALID_ARGUMENT, f"length: {request.length} is negative")
        sequence.keys = [keys[: request.length] for keys in sequence.keys]
        sequence.values = [values[: request.length] for values in sequence.values]
        sequence.keep_pages(-(-request.length // sequence.cache.geometry.page_size_tokens))
        return sequence_pb2.TruncateSequenceResponse()

    def free_sequence(self, request):
        del self.session(request).sequences[self.sequence(request).id]
        return sequence_pb2.FreeSequenceResponse()

    def describe_sequence(self, request):
        return sequence_pb2.DescribeSequenceResponse(
            sequence=self.describe(self.sequence(request), state=True)
        )

    def list_sequences(self, request):
        sequences = self.session(request).sequences.values()
        return sequence_pb2.ListSequencesResponse(
            sequences=[self.describe(sequence, state=False) for sequence in sequences]
        )

    def set_client_state(self, request):
        sequence = self.sequence(request)
        if len(request.client_state) > self.max_state_bytes:
            raise Refused(Code.INVALID_ARGUMENT, "client_state is above 1 MiB")
        if request.expected_version != sequence.state_version:
            raise Refused(
                Code.ABORTED,
                f"client_state has version {sequence.state_version}, not "
                f"{request.expected_version}",
                reason=Reason.SUPERSEDED,
            )
        sequence.state, sequence.state_version = request.client_state, sequence.state_version + 1
        return sequence_pb2.SetClientStateResponse(version=sequence.state_version)


def check_keys(keys) -> None:
    for index, key in enumerate(keys):
        if not 16 <= len(key) <= 64:
            raise Refused(Code.INVALID_ARGUMENT, f"keys[{index}]: {len(key)} bytes")


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
