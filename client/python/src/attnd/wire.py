# SPDX-License-Identifier: Apache-2.0
"""Messages that carry tensors, put together and taken apart by hand.

protobuf's Python runtime would copy `tensor_data` when the field is set, when the message is
serialized, and again when a response is parsed. Here a request is its serialized header followed by
field 15, joined once; a response's field 15 stays where it was received. Source of the format:
the protocol buffers encoding guide, "Length-Delimited Records".
"""

from __future__ import annotations

from collections.abc import Iterable

from attnd.errors import Internal

_TENSOR_DATA_TAG = 15 << 3 | 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def join_request(header: bytes, tensors: Iterable[memoryview]) -> bytes:
    """`header`, a serialized message without tensor_data, followed by tensor_data: one copy."""
    parts = list(tensors)
    total = sum(map(len, parts))
    if total == 0:
        return header
    return b"".join([header, bytes([_TENSOR_DATA_TAG]), _encode_varint(total), *parts])


def split_response(message: bytes) -> tuple[bytes, memoryview]:
    """The serialized message without tensor_data, and a view of its tensor_data.

    Raises:
        Internal: `message` is no valid protobuf message.
    """
    view = memoryview(message)
    header: list[memoryview] = []
    data = view[:0]
    position = start = 0
    while position < len(message):
        begin = position
        tag, position = _decode_varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _decode_varint(message, position)
        elif wire_type == _BYTES:
            length, position = _decode_varint(message, position)
            if position + length > len(message):
                raise Internal("the daemon's response is cut off")
            if tag == _TENSOR_DATA_TAG:
                header.append(view[start:begin])
                data = view[position : position + length]
                start = position + length
            position += length
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise Internal(f"the daemon's response has wire type {wire_type} at byte {begin}")
    header.append(view[start:])
    return b"".join(header), data


def _decode_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise Internal("the daemon's response is cut off")
