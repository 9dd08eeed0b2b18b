# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the client: one class per row of attnd's error table.

Everything raised for an answer of the daemon derives from `AttndError`, and where Python has a name
for the same thing, from that too: `except ValueError` catches `InvalidArgument`.

    try:
        session.attend(items)
    except attnd.ResourceExhausted as error:
        print(error.needed_pages, error.free_pages)

Whether to send the same call again is `error.retryable`; the client has done so by itself, within
its timeout, wherever that is harmless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from attnd._proto import rpc_status_pb2, types_pb2

if TYPE_CHECKING:
    from attnd.attention import AttendResult

Reason = types_pb2.ErrorDetail.Reason
_DETAILS_KEY = "grpc-status-details-bin"


class AttndError(Exception):
    """A call, or one item of a batch, failed.

    Attributes:
        code: the gRPC status code.
        reason: name of `ErrorDetail.Reason`, "" where the daemon gave none ("QUEUE_FULL", ...).
        retry_delay_s: how long the daemon asks to wait before a retry, in seconds; 0.0 for none.
        needed_pages, free_pages: of RESOURCE_EXHAUSTED; 0 where not given.
        limit_bytes: of a message that was too large; 0 otherwise.
        method: the RPC that failed, "Attend"; "" where the client itself refused.
        item: index of the failed item in its batch; None where the call failed as a whole.
        results: the outcome of all items, where one item failed; None otherwise.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        detail: types_pb2.ErrorDetail | None = None,
        method: str = "",
        item: int | None = None,
        from_channel: bool = False,
    ) -> None:
        super().__init__(message)
        detail = detail or types_pb2.ErrorDetail()
        self.reason: str = Reason.Name(detail.reason) if detail.reason in Reason.values() else ""
        if self.reason == "REASON_UNSPECIFIED":
            self.reason = ""
        self.retry_delay_s: float = detail.retry_delay_ms / 1e3
        self.needed_pages: int = detail.needed_pages
        self.free_pages: int = detail.free_pages
        self.limit_bytes: int = detail.limit_bytes
        self.method = method
        self.item = item
        self.results: AttendResult | None = None
        # The connection failed, not the daemon: the call was possibly executed.
        self.from_channel = from_channel

    def __str__(self) -> str:
        where = self.method + ("" if self.item is None else f" item {self.item}")
        message = super().__str__()
        return f"{where}: {self.code.name}: {message}" if where else message


class InvalidArgument(AttndError, ValueError):
    """Malformed, shape and bytes disagree, overflow, out of range. Do not retry."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(AttndError, LookupError):
    """Unknown or stale cache, sequence or session; another session's too. Do not retry."""

    code = grpc.StatusCode.NOT_FOUND


class Aborted(AttndError):
    """Superseded: a newer epoch, step or client_state exists. Read the state first."""

    code = grpc.StatusCode.ABORTED


class DataLoss(AttndError):
    """The sequence was on a device that failed. Free it and recompute."""

    code = grpc.StatusCode.DATA_LOSS


class FailedPrecondition(AttndError):
    """A hole in positions, a read beyond the length, another geometry. Do not retry."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Unimplemented(AttndError, NotImplementedError):
    """No kernel for this combination; the message names what is missing. Do not retry."""

    code = grpc.StatusCode.UNIMPLEMENTED


class ResourceExhausted(AttndError):
    """Pages, quota or memory: `needed_pages`, `free_pages`. Retry after freeing something."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class MessageTooLarge(ResourceExhausted, ValueError):
    """The request is over the message limit, `limit_bytes`. Split the batch; do not retry."""


class Unavailable(AttndError, ConnectionError):
    """Queue full (retry after `retry_delay_s`), or no daemon at the address."""

    code = grpc.StatusCode.UNAVAILABLE
    retryable = True


class HandshakeFailed(Unavailable):
    """TLS was refused, by this client or the daemon, and would be again; says what to check."""

    retryable = False


class Draining(Unavailable):
    """The daemon is going down and admits nothing new; another one must serve the call."""

    retryable = False


class DeadlineExceeded(AttndError, TimeoutError):
    """The timeout passed. Retry with the same steps, whether or not it was executed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    retryable = True


class Cancelled(AttndError):
    """Cancelled before the launch: nothing was written. Retry if still wanted."""

    code = grpc.StatusCode.CANCELLED
    retryable = True


class Unauthenticated(AttndError, PermissionError):
    """No token, or one that the daemon does not know; a renewed one was tried. Do not retry."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(AttndError, PermissionError):
    """An operation that the role of this token's tenant may not do. Do not retry."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Internal(AttndError):
    """A bug, or a device that failed. Do not retry."""

    code = grpc.StatusCode.INTERNAL


class ForkedProcess(FailedPrecondition, RuntimeError):
    """The handle is another process's: it came here by a fork. Make a new client in this one."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class SessionLost(AttndError):
    """The handle no longer holds its session: closed, released, resumed elsewhere, or expired."""

    code = grpc.StatusCode.FAILED_PRECONDITION


_BY_CODE: dict[grpc.StatusCode, type[AttndError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        Aborted,
        DataLoss,
        FailedPrecondition,
        Unimplemented,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Unauthenticated,
        PermissionDenied,
        Internal,
    )
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def make_error(code: grpc.StatusCode, message: str, **kwargs: Any) -> AttndError:
    """The exception of the table's row for `code`; `kwargs` are those of `AttndError`."""
    detail = kwargs.get("detail")
    cls = _BY_CODE.get(code, AttndError)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (
        # gRPC refuses an over-limit message by itself, before the daemon could attach details.
        (detail is not None and detail.reason == Reason.MESSAGE_TOO_LARGE)
        or (detail is None and "message larger than max" in message)
    ):
        cls = MessageTooLarge
    elif detail is not None and detail.reason == Reason.DRAINING:
        cls = Draining
    error = cls(message, **kwargs)
    error.code = code
    return error


def from_item_status(status: types_pb2.ItemStatus, item: int | None) -> AttndError:
    """The exception for one failed item of a batch; None: for a request of a stream."""
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    detail = status.detail if status.HasField("detail") else None
    return make_error(code, status.message, detail=detail, method="Attend", item=item)


def from_rpc_error(error: grpc.RpcError, method: str) -> AttndError:
    """The exception for a failed call, with the `ErrorDetail` of its trailers."""
    code, message = error.code(), error.details() or ""
    detail = None
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            detail = _parse_details(value)
    channel = code is grpc.StatusCode.UNAVAILABLE and (detail is None or not detail.reason)
    return make_error(code, message, detail=detail, method=method, from_channel=channel)


def _parse_details(value: bytes) -> types_pb2.ErrorDetail | None:
    detail = types_pb2.ErrorDetail()
    try:
        status = rpc_status_pb2.RpcStatus.FromString(value)
        if any(packed.Unpack(detail) for packed in status.details):
            return detail
    except Exception:  # noqa: BLE001 - a proxy may put anything here; the code and message remain
        pass
    return None
