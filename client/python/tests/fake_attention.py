# SPDX-License-Identifier: Apache-2.0
"""Attention of the fake daemon: Attend and FlashAttention over the fp64 reference."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np

import reference
from attnd import tensors
from attnd._proto import attention_pb2
from fake_state import Code, FakeState, Refused


class FakeAttention(FakeState):
    """One method per RPC of the attention service."""

    max_message_bytes = 64 << 20

    def get_capabilities(self, request):
        return attention_pb2.GetCapabilitiesResponse(
            version="fake",
            backend="fake",
            any_head_dim=True,
            max_head_dim=256,
            max_message_bytes=self.max_message_bytes,
        )

    def attend(self, request):
        session = self.session(request)
        if not request.items:
            raise Refused(Code.INVALID_ARGUMENT, "items: empty")
        if len({(i.sequence.handle, i.layer) for i in request.items}) != len(request.items):
            raise Refused(Code.INVALID_ARGUMENT, "items: a (sequence, layer) comes twice")
        response = attention_pb2.AttendResponse(request_id=request.request_id)
        begin_ns = time.perf_counter_ns()
        data = bytearray()
        for item in request.items:
            result = response.results.add()
            try:
                self.attend_item(session, item, request.tensor_data, result, data)
            except Refused as refused:
                result.Clear()
                result.status.code = refused.code.value[0]
                result.status.message = refused.message
        response.tensor_data = bytes(data)
        response.timing.kernel_ns = time.perf_counter_ns() - begin_ns
        self.stats.items_total += len(request.items)
        self.stats.kernel_seconds_total += response.timing.kernel_ns / 1e9
        return response

    def attend_item(self, session, item, payload, result, data) -> None:
        sequence = self.find(session.sequences, item.sequence, "sequence")
        shape = sequence.cache.geometry
        if not 0 <= item.layer < shape.num_layers:
            raise Refused(Code.INVALID_ARGUMENT, f"layer: {item.layer} is out of range")
        q, k, v = (
            load(name, getattr(item, name), payload, heads, dim) if item.HasField(name) else None
            for name, heads, dim in (
                ("q", shape.num_query_heads, shape.head_dim_k),
                ("k", shape.num_kv_heads, shape.head_dim_k),
                ("v", shape.num_kv_heads, shape.head_dim_v),
            )
        )
        start, layer = item.start_position, item.layer
        rows = len(q if q is not None else k)
        length = len(sequence.keys[layer])
        end = start + rows
        if k is not None:
            if item.step < sequence.steps[layer]:
                raise Refused(
                    Code.ABORTED, f"step {item.step} was superseded by {sequence.steps[layer]}"
                )
            result.replayed = item.step == sequence.steps[layer]
            if not result.replayed:
                if start > length:
                    raise Refused(
                        Code.FAILED_PRECONDITION,
                        f"start_position {start} leaves a hole at {length}",
                    )
                kept = slice(0, start)
                store = shape.kv_dtype
                new_k, new_v = reference.round_to(k, store), reference.round_to(v, store)
                sequence.keys[layer] = np.concatenate([sequence.keys[layer][kept], new_k])
                sequence.values[layer] = np.concatenate([sequence.values[layer][kept], new_v])
                sequence.steps[layer] = item.step
                sequence.keep_pages(start // shape.page_size_tokens)
                self.stats.tokens_written_total += rows
        else:
            end = item.kv_length if item.HasField("kv_length") else end
        if end > len(sequence.keys[layer]):
            raise Refused(Code.FAILED_PRECONDITION, f"{end} keys wanted, {length} are there")
        result.layer_length = len(sequence.keys[layer])
        if q is None:
            return
        self.stats.tokens_attended_total += rows
        out, lse = reference.attention(
            q,
            sequence.keys[layer][:end],
            sequence.values[layer][:end],
            start=start,
            options=item.options,
            sinks=load_sinks(item.options, payload),
        )
        store_tensor(result.out, out, item.q.dtype, data)
        if item.options.return_lse:
            store_tensor(result.lse, lse, tensors.F32, data)

    def flash_attention(self, request):
        begin_ns = time.perf_counter_ns()
        ragged = len(request.cu_seqlens_q) > 0
        q, k, v = (
            load(name, getattr(request, name), request.tensor_data, None, None)
            for name in ("q", "k", "v")
        )
        if ragged:
            cuts_q, cuts_k = request.cu_seqlens_q, request.cu_seqlens_k
            if len(cuts_q) != len(cuts_k) or cuts_q[-1] != len(q) or cuts_k[-1] != len(k):
                raise Refused(Code.INVALID_ARGUMENT, "cu_seqlens_q: does not end at the total")
            cuts = zip(pairwise(cuts_q), pairwise(cuts_k), strict=True)
            parts = [(q[a:b], k[c:d], v[c:d]) for (a, b), (c, d) in cuts]
        else:
            parts = list(zip(q, k, v, strict=True))
        sinks = load_sinks(request.options, request.tensor_data)
        pairs = [
            reference.attention(
                *part, start=len(part[1]) - len(part[0]), options=request.options, sinks=sinks
            )
            for part in parts
        ]
        join = np.concatenate if ragged else np.stack
        response = attention_pb2.FlashAttentionResponse()
        data = bytearray()
        store_tensor(response.out, join([out for out, _ in pairs]), request.q.dtype, data)
        if request.options.return_lse:
            lse = [lse for _, lse in pairs]
            store_tensor(
                response.lse, np.concatenate(lse, 1) if ragged else np.stack(lse), tensors.F32, data
            )
        response.tensor_data = bytes(data)
        response.timing.kernel_ns = time.perf_counter_ns() - begin_ns
        return response


def load(name: str, tensor, payload: bytes, heads: int | None, dim: int | None) -> np.ndarray:
    """The values as float64; what the daemon refuses about a tensor."""
    shape, dtype = tuple(tensor.shape), tensors._NUMPY.get(tensor.dtype)
    if dtype is None or not shape or min(shape) < 1:
        raise Refused(Code.INVALID_ARGUMENT, f"{name}: bad shape {shape} or dtype")
    if heads is not None and (len(shape) != 3 or shape[1:] != (heads, dim)):
        raise Refused(
            Code.INVALID_ARGUMENT, f"{name}: shape {list(shape)}, expected [n, {heads}, {dim}]"
        )
    count = 1
    for size in shape:
        count *= size
    if tensor.offset_bytes + count * dtype.itemsize > len(payload):
        raise Refused(Code.INVALID_ARGUMENT, f"{name}: its bytes lie outside tensor_data")
    raw = np.frombuffer(payload, dtype, count, tensor.offset_bytes).reshape(shape)
    return reference.widen(raw, tensor.dtype)


def load_sinks(options, payload: bytes) -> np.ndarray | None:
    """Of an item or a call; what this daemon's attention does not know is refused."""
    for name in ("alibi_slopes", "tree_mask", "dropout"):
        if options.HasField(name):
            raise Refused(Code.UNIMPLEMENTED, f"{name}: the fake daemon has no kernel for it")
    if not options.HasField("sinks"):
        return None
    return load("sinks", options.sinks, payload, None, None)


def store_tensor(message, values: np.ndarray, dtype: int, data: bytearray) -> None:
    data.extend(bytes(-len(data) % 64))
    message.dtype, message.offset_bytes = dtype, len(data)
    message.shape.extend(values.shape)
    data.extend(reference.narrow(values, dtype).tobytes())
