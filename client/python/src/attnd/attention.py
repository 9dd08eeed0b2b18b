# SPDX-License-Identifier: Apache-2.0
"""One Attend batch, and the stateless call: from arrays to messages and back.

The calls themselves are `Session.attend` and `Client.flash_attention`.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnd import tensors, wire
from attnd._proto import attention_pb2, types_pb2
from attnd.errors import AttndError, Internal, InvalidArgument, from_item_status
from attnd.options import Options, Payload, integer

if TYPE_CHECKING:
    from attnd.sequence_calls import SequenceCalls

_DEFAULT_OPTIONS = Options(causal=True)


@dataclass(slots=True, kw_only=True)
class Item:
    """One sequence in one layer, of a batch.

    q, k and v given: writes k and v at positions [start, start + n), then attends q over
    [0, start + n). q None: writes only. k and v None: reads only.

    Attributes:
        sequence: the handle; its session is the one that attends.
        layer: 0 to num_layers - 1.
        start: position of the first row, in tokens; at most the layer's length. Writing below the
            length shortens the layer to start + n.
        q: [n, num_query_heads, head_dim_k], f32, f16 or bf16.
        k: [n, num_kv_heads, head_dim_k], of q's dtype.
        v: [n, num_kv_heads, head_dim_v], of q's dtype.
        options: mask and scores; causal unless given.
        kv_length: of reads only: attend over [0, kv_length) instead of [0, start + n).
        step: of the write; rises with every write to this (sequence, layer). None: the handle
            counts, and the item keeps the number, so that attending the same item again is the
            retry that writes nothing twice.
    """

    sequence: SequenceCalls
    layer: int
    start: int
    q: Any = None
    k: Any = None
    v: Any = None
    options: Options = _DEFAULT_OPTIONS
    kv_length: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's time went inside the daemon, in nanoseconds; the parts add up."""

    stage_in_ns: int
    queue_ns: int
    kernel_ns: int
    stage_out_ns: int

    @property
    def total_ns(self) -> int:
        """From the request's arrival to its response."""
        return self.stage_in_ns + self.queue_ns + self.kernel_ns + self.stage_out_ns

    @classmethod
    def from_message(cls, timing: attention_pb2.RequestTiming) -> Timing:
        """Reads the proto message."""
        return cls(timing.stage_in_ns, timing.queue_ns, timing.kernel_ns, timing.stage_out_ns)


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The outcome of one item.

    Attributes:
        error: why it failed; None where it did not.
        out: [n, num_query_heads, head_dim_v] of q's dtype and kind (numpy: a read-only view); None
            for writes and failed items.
        lse: [num_query_heads, n] f32, where asked for.
        layer_length: tokens in the layer after the item.
        replayed: the step had been applied before: nothing was written.
    """

    error: AttndError | None
    out: Any
    lse: Any
    layer_length: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class AttendResult:
    """The outcomes of a batch, in the order of its items."""

    items: list[ItemResult]
    timing: Timing

    def __iter__(self) -> Iterator[ItemResult]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> ItemResult:
        return self.items[index]


def pack_attend(
    session: types_pb2.Id, epoch: int, items: Seq[Item], *, request_id: int = 0
) -> bytes:
    """The bytes of an AttendRequest. Draws steps for the items that have none.

    Raises:
        InvalidArgument, TypeError: an argument does not fit; the message names the item, the
            argument, its value and what was expected.
    """
    if not items:
        raise InvalidArgument("items: got an empty batch, expected at least 1 item")
    request = attention_pb2.AttendRequest(session=session, epoch=epoch, request_id=request_id)
    payload = Payload()
    for index, item in enumerate(items):
        try:
            _pack_item(request.items.add(), payload, item)
        except (AttndError, TypeError) as error:
            error.args = (f"items[{index}].{error.args[0]}", *error.args[1:])
            raise
    return wire.join_request(request.SerializeToString(), payload.parts)


def _pack_item(message: attention_pb2.AttendItem, payload: Payload, item: Item) -> None:
    geometry = item.sequence.cache.geometry
    n = _check_rows(item)
    message.layer = integer("layer", item.layer, most=geometry.num_layers - 1)
    message.start_position = integer("start", item.start)
    dims = {
        "q": (n, geometry.num_query_heads, geometry.head_dim_k),
        "k": (n, geometry.num_kv_heads, geometry.head_dim_k),
        "v": (n, geometry.num_kv_heads, geometry.head_dim_v),
    }
    dtype: int | None = None
    for name, expected in dims.items():
        value = getattr(item, name)
        if value is None:
            continue
        host = payload.add(name, getattr(message, name), value, rank=3)
        if host.shape != expected:
            raise InvalidArgument(
                f"{name}: got shape {list(host.shape)}, expected {list(expected)}"
            )
        if dtype is not None and host.dtype != dtype:
            raise InvalidArgument(
                f"{name}: got dtype {tensors.dtype_name(host.dtype)}, expected "
                f"{tensors.dtype_name(dtype)} like the item's other tensors"
            )
        dtype = host.dtype
    item.options.fill(message.options, payload)
    if item.k is not None:
        if item.kv_length is not None:
            raise InvalidArgument(
                f"kv_length: got {item.kv_length} with k and v, expected None: it is of reads only"
            )
        if item.step is None:
            item.step = item.sequence.next_step(item.layer)
        message.step = integer("step", item.step, least=1, most=2**64 - 1)
    elif item.kv_length is not None:
        message.kv_length = integer("kv_length", item.kv_length)
    message.sequence.CopyFrom(item.sequence.id)


def _check_rows(item: Item) -> int:
    if (item.k is None) != (item.v is None):
        present, missing = ("k", "v") if item.v is None else ("v", "k")
        raise InvalidArgument(f"{missing}: got None with {present} given, expected both or neither")
    first = item.q if item.q is not None else item.k
    if first is None:
        raise InvalidArgument("q: got None with k and v None, expected q, or k and v, or all three")
    shape: tuple[int, ...] = getattr(first, "shape", ())
    return int(shape[0]) if len(shape) else 0


def unpack_attend(response: bytes, items: Seq[Item]) -> AttendResult:
    """The outcomes from the bytes of an AttendResponse, in the dtype and kind of each item's q.

    Raises:
        Internal: the response does not fit its request.
    """
    return unpack_results(*split_attend(response), items)


def split_attend(response: bytes) -> tuple[attention_pb2.AttendResponse, memoryview]:
    """The message without its tensors, and the tensors' bytes."""
    header, data = wire.split_response(response)
    return attention_pb2.AttendResponse.FromString(header), data


def unpack_results(
    message: attention_pb2.AttendResponse, data: memoryview, items: Seq[Item]
) -> AttendResult:
    """The outcomes from what `split_attend` gave. Raises Internal where they are too few."""
    if len(message.results) != len(items):
        raise Internal(f"the daemon answered {len(message.results)} of {len(items)} items")
    results = []
    for index, (item, result) in enumerate(zip(items, message.results, strict=True)):
        as_torch = tensors.is_torch(item.q)
        error = from_item_status(result.status, index) if result.status.code else None
        results.append(
            ItemResult(
                error,
                _optional(result, "out", data, as_torch),
                _optional(result, "lse", data, as_torch),
                result.layer_length,
                result.replayed,
            )
        )
    return AttendResult(results, Timing.from_message(message.timing))


@dataclass(frozen=True, slots=True)
class FlashResult:
    """Outcome of the stateless call.

    Attributes:
        out: the shape of q with head_dim_v in the last place; dtype and kind of q.
        lse: f32 [B, num_query_heads, Sq], or [num_query_heads, total_q] where ragged; or None.
        timing: inside the daemon.
    """

    out: Any
    lse: Any
    timing: Timing


def pack_flash(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, options: Options
) -> bytes:
    """The bytes of a FlashAttentionRequest. Raises as `Client.flash_attention` says."""
    if (cu_seqlens_q is None) != (cu_seqlens_k is None):
        missing = "cu_seqlens_q" if cu_seqlens_q is None else "cu_seqlens_k"
        raise InvalidArgument(f"{missing}: got None, expected both cu_seqlens or neither")
    rank = 4 if cu_seqlens_q is None else 3
    request = attention_pb2.FlashAttentionRequest()
    payload = Payload()
    hosts = {
        name: payload.add(name, getattr(request, name), value, rank=rank)
        for name, value in (("q", q), ("k", k), ("v", v))
    }
    for name in ("k", "v"):
        if hosts[name].dtype != hosts["q"].dtype:
            got, want = (tensors.dtype_name(hosts[x].dtype) for x in (name, "q"))
            raise InvalidArgument(f"{name}: got dtype {got}, expected {want} like q")
    for name, value in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if value is not None:
            getattr(request, name).extend(integer(name, entry) for entry in value)
    options.fill(request.options, payload)
    return wire.join_request(request.SerializeToString(), payload.parts)


def unpack_flash(response: bytes, *, as_torch: bool) -> FlashResult:
    """The outcome from the bytes of a FlashAttentionResponse."""
    header, data = wire.split_response(response)
    message = attention_pb2.FlashAttentionResponse.FromString(header)
    return FlashResult(
        _optional(message, "out", data, as_torch),
        _optional(message, "lse", data, as_torch),
        Timing.from_message(message.timing),
    )


def _optional(message: Any, field: str, data: memoryview, as_torch: bool) -> Any:
    if not message.HasField(field):
        return None
    return tensors.from_message(getattr(message, field), data, as_torch=as_torch)
