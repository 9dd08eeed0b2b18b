# SPDX-License-Identifier: Apache-2.0
"""The hand-made messages are what protobuf makes, and nothing is copied that need not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnd
from attnd import tensors, wire
from attnd._proto import attention_pb2, types_pb2
from attnd.demo import metrics
from attnd.token_state import TokenState


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(0, 2**64 - 1))
def test_a_joined_request_is_what_protobuf_reads(parts: list[bytes], epoch: int) -> None:
    header = attention_pb2.AttendRequest(epoch=epoch, request_id=7)
    joined = wire.join_request(header.SerializeToString(), map(memoryview, parts))
    read = attention_pb2.AttendRequest.FromString(joined)
    assert read.tensor_data == b"".join(parts)
    assert (read.epoch, read.request_id) == (epoch, 7)


@given(st.binary(max_size=400), st.integers(0, 2**64 - 1), st.integers(0, 3))
def test_a_split_response_is_what_protobuf_wrote(data: bytes, request_id: int, n: int) -> None:
    message = attention_pb2.AttendResponse(request_id=request_id, tensor_data=data)
    message.timing.kernel_ns = 5
    for index in range(n):
        message.results.add(layer_length=index)
    header, view = wire.split_response(message.SerializeToString())
    assert bytes(view) == data
    message.ClearField("tensor_data")
    assert attention_pb2.AttendResponse.FromString(header) == message


def test_tensor_data_may_come_before_other_fields() -> None:
    tail = attention_pb2.AttendResponse(request_id=3).SerializeToString()
    header, view = wire.split_response(b"\x7a\x03abc" + tail)
    assert bytes(view) == b"abc"
    assert header == tail


@pytest.mark.parametrize("message", [b"\x7a\x05abc", b"\x08", b"\x0a\xff\xff\xff", b"\x0b"])
def test_a_response_that_is_cut_off_is_said_so(message: bytes) -> None:
    with pytest.raises(attnd.Internal):
        wire.split_response(message)


def test_a_numpy_array_is_read_and_given_in_place() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    host = tensors.to_host("q", array, rank=3)
    assert np.shares_memory(np.frombuffer(host.data, np.float32), array)
    message = types_pb2.Tensor(dtype="DTYPE_F32", shape=[2, 3, 4], offset_bytes=0)
    assert np.shares_memory(tensors.from_message(message, host.data, as_torch=False), array)
    message.offset_bytes = 4
    with pytest.raises(attnd.Internal, match="beyond its 96 bytes"):
        tensors.from_message(message, host.data, as_torch=False)


@given(st.integers(0, 99), st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_token_state_comes_back(row: int, ids: list[int]) -> None:
    state = TokenState(row, len(ids) - 1, len(ids) + 5, ids)
    assert TokenState.decode(state.encode()) == state


def test_small_vocabularies_take_two_bytes_an_id() -> None:
    assert len(TokenState(0, 0, 0, [49151] * 100).encode()) == 16 + 200


@pytest.mark.parametrize(
    "state", [b"", b"ATOK", b"x" * 40, TokenState(0, 2, 0, [5, 6]).encode()[:-1]]
)
def test_other_client_state_is_refused(state: bytes) -> None:
    with pytest.raises(attnd.InvalidArgument, match="client_state: got"):
        TokenState.decode(state)


def test_prometheus_text_is_read() -> None:
    scrape = metrics.parse(
        "# HELP attnd_pages Pages.\n# TYPE attnd_pages gauge\n"
        'attnd_pages{cache="a",state="used"} 3\nattnd_pages{cache="b",state="used"} 4\n'
        'attnd_pages{cache="b",state="free"} 1e2\nattnd_sessions 2\n'
    )
    assert scrape.total("attnd_pages", state="used") == 7
    assert scrape.total("attnd_pages", cache="b") == 104
    assert scrape.total("attnd_sessions") == 2
    assert scrape.total("attnd_nothing") is None
