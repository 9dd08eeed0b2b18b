# SPDX-License-Identifier: Apache-2.0
"""The calls of a client (see `attnd.calls`)."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, TypeVar

from attnd import tensors
from attnd._proto import admin_pb2, attention_pb2, cache_pb2, session_pb2, types_pb2
from attnd.attention import FlashResult, pack_flash, unpack_flash
from attnd.errors import InvalidArgument, MessageTooLarge
from attnd.options import Options, integer
from attnd.process import ProcessBound

DEFAULT_OPTIONS = Options()
_Message = TypeVar("_Message")
_SMALL_MESSAGE_BYTES = 1 << 20
_MAX_TENANT_BYTES = 128


@dataclass(frozen=True, slots=True)
class KvCache:
    """A named geometry of the daemon; sequences are created in one.

    Attributes:
        id: of the daemon; opaque.
        name: as it was opened.
        geometry: layers, heads, dims, storage dtype and page size, with the defaults filled in.
    """

    id: types_pb2.Id
    name: str
    geometry: types_pb2.CacheGeometry


class ClientCalls(ProcessBound):
    """The connection; its public methods are those of `Client` and `AsyncClient`."""

    _capabilities_known: attention_pb2.GetCapabilitiesResponse | None = None

    async def _send(
        self,
        service: str,
        method: str,
        request: bytes,
        *,
        idempotent: bool,
        timeout_s: float | None = None,
    ) -> bytes:
        """One call with its retries, as `Channel.call` says."""
        raise NotImplementedError

    async def _capabilities(self) -> attention_pb2.GetCapabilitiesResponse:
        self.check_process()
        if self._capabilities_known is None:
            self._capabilities_known = await self._ask(
                "AttentionService",
                "GetCapabilities",
                attention_pb2.GetCapabilitiesRequest(),
                attention_pb2.GetCapabilitiesResponse,
            )
        return self._capabilities_known

    async def _stats(self) -> admin_pb2.GetStatsResponse:
        return await self._ask(
            "AdminService", "GetStats", admin_pb2.GetStatsRequest(), admin_pb2.GetStatsResponse
        )

    async def _check_integrity(self) -> admin_pb2.CheckIntegrityResponse:
        return await self._ask(
            "AdminService",
            "CheckIntegrity",
            admin_pb2.CheckIntegrityRequest(),
            admin_pb2.CheckIntegrityResponse,
        )

    async def _set_log_level(self, level: str) -> str:
        response: admin_pb2.SetLogLevelResponse = await self._ask(
            "AdminService",
            "SetLogLevel",
            admin_pb2.SetLogLevelRequest(level=level),
            admin_pb2.SetLogLevelResponse,
        )
        return response.former

    async def _open_cache(
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
        int32 = 2**31 - 1
        geometry = types_pb2.CacheGeometry(
            num_layers=integer("num_layers", num_layers, most=int32),
            num_query_heads=integer("num_query_heads", num_query_heads, most=int32),
            num_kv_heads=integer("num_kv_heads", num_kv_heads, most=int32),
            head_dim_k=integer("head_dim", head_dim, most=int32),
            head_dim_v=0 if head_dim_v is None else integer("head_dim_v", head_dim_v, most=int32),
            kv_dtype=tensors.dtype_code(dtype),  # type: ignore[arg-type]
            page_size_tokens=integer("page_size_tokens", page_size_tokens, most=int32),
        )
        quota = integer("page_quota", page_quota)
        response = await self._ask(
            "CacheService",
            "OpenCache",
            cache_pb2.OpenCacheRequest(name=name, geometry=geometry, page_quota=quota),
            cache_pb2.OpenCacheResponse,
        )
        opened = response.info.geometry if response.info.HasField("geometry") else geometry
        if not opened.head_dim_v:
            opened.head_dim_v = opened.head_dim_k
        return KvCache(response.cache, name, opened)

    async def _close_cache(self, cache: KvCache) -> None:
        await self._ask(
            "CacheService",
            "CloseCache",
            cache_pb2.CloseCacheRequest(cache=cache.id),
            cache_pb2.CloseCacheResponse,
            idempotent=False,
        )

    async def _list_caches(self) -> list[KvCache]:
        response = await self._ask(
            "CacheService",
            "ListCaches",
            cache_pb2.ListCachesRequest(),
            cache_pb2.ListCachesResponse,
        )
        return [KvCache(info.cache, info.name, info.geometry) for info in response.caches]

    async def _flash_attention(
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
        request = pack_flash(q, k, v, cu_seqlens_q, cu_seqlens_k, options)
        response = await self._with_tensors("FlashAttention", request, timeout_s=timeout_s)
        return unpack_flash(response, as_torch=tensors.is_torch(q))

    async def _open_session(
        self, *, lease_s: float | None = None, label: str = "", tenant: str = ""
    ) -> session_pb2.OpenSessionResponse:
        size = len(tenant.encode())
        if size > _MAX_TENANT_BYTES:
            raise InvalidArgument(f"tenant: got {size} bytes, expected at most {_MAX_TENANT_BYTES}")
        return await self._ask(
            "SessionService",
            "OpenSession",
            session_pb2.OpenSessionRequest(lease_ms=_lease_ms(lease_s), label=label, tenant=tenant),
            session_pb2.OpenSessionResponse,
            idempotent=False,
        )

    async def _resume_session(
        self, token: bytes, *, lease_s: float | None = None
    ) -> session_pb2.ResumeSessionResponse:
        if not isinstance(token, bytes) or len(token) != 16:
            got = f"{len(token)} bytes" if isinstance(token, bytes) else f"a {type(token).__name__}"
            raise InvalidArgument(f"token: got {got}, expected 16 bytes")
        return await self._ask(
            "SessionService",
            "ResumeSession",
            session_pb2.ResumeSessionRequest(token=token, lease_ms=_lease_ms(lease_s)),
            session_pb2.ResumeSessionResponse,
        )

    async def _ask(
        self,
        service: str,
        method: str,
        request: Any,
        response_type: type[_Message],
        *,
        idempotent: bool = True,
        timeout_s: float | None = None,
    ) -> _Message:
        data = await self._send(
            service, method, request.SerializeToString(), idempotent=idempotent, timeout_s=timeout_s
        )
        return response_type.FromString(data)  # type: ignore[attr-defined, no-any-return]

    async def _with_tensors(
        self, method: str, request: bytes, *, timeout_s: float | None = None
    ) -> bytes:
        await self._check_size(request)
        return await self._send(
            "AttentionService", method, request, idempotent=True, timeout_s=timeout_s
        )

    async def _check_size(self, request: bytes) -> None:
        if len(request) <= _SMALL_MESSAGE_BYTES:
            return
        limit = (await self._capabilities()).max_message_bytes
        if limit and len(request) > limit:
            detail = types_pb2.ErrorDetail(
                reason=types_pb2.ErrorDetail.MESSAGE_TOO_LARGE, limit_bytes=limit
            )
            raise MessageTooLarge(
                f"the request has {len(request)} bytes, expected at most {limit}: split it",
                detail=detail,
            )


def _lease_ms(lease_s: float | None) -> int:
    if lease_s is None:
        return 0
    if not 0.001 <= lease_s <= 2**40:
        raise InvalidArgument(f"lease_s: got {lease_s}, expected at least 0.001 seconds")
    return round(lease_s * 1e3)
