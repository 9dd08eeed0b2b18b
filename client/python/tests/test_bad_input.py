# SPDX-License-Identifier: Apache-2.0
"""What the client refuses by itself, and what the daemon refuses on the wire."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnd
from attnd import attention, wire
from conftest import Make


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"q": np.zeros((3, 4, 63), np.float32)},
            r"q: got shape \[3, 4, 63\], expected \[3, 4, 64",
        ),
        (
            {"k": np.zeros((2, 2, 64), np.float32)},
            r"k: got shape \[2, 2, 64\], expected \[3, 2, 64",
        ),
        (
            {"v": np.zeros((3, 64), np.float32)},
            r"v: got shape \[3, 64\] of 2 dimensions, expected 3",
        ),
        ({"q": np.zeros((0, 4, 64), np.float32)}, r"q: got shape \[0, 4, 64\].*no size below 1"),
        ({"q": np.zeros((3, 4, 64))}, r"q: got dtype float64, expected one of f32, f16, bf16"),
        ({"k": np.zeros((3, 2, 64), np.float16)}, r"k: got dtype f16, expected f32 like"),
        ({"layer": 3}, r"layer: got 3, expected 0 to 2"),
        ({"layer": -1}, r"layer: got -1, expected 0 to 2"),
        ({"start": -1}, r"start: got -1, expected 0 to"),
        ({"step": 0}, r"step: got 0, expected 1 to"),
        ({"kv_length": 3}, r"kv_length: got 3 with k and v, expected None"),
        ({"v": None}, r"v: got None with k given, expected both or neither"),
        ({"q": None, "k": None, "v": None}, r"q: got None with k and v None"),
        ({"options": attnd.Options(softcap=-1.0)}, r"softcap: got -1.0, expected at least 0"),
        ({"options": attnd.Options(softmax_scale=float("nan"))}, r"softmax_scale: got nan"),
        ({"options": attnd.Options(window_left=-2)}, r"window_left: got -2, expected 0 to"),
        ({"options": attnd.Options(tree_mask=np.ones((3, 2), bool))}, r"tree_mask: got shape"),
        ({"options": attnd.Options(sinks=np.ones((2, 2), np.float32))}, r"sinks: got shape"),
    ],
)
def test_the_client_names_argument_value_and_expectation(
    session: attnd.Session,
    sequence: attnd.Sequence,
    make_item: Make,
    fields: dict[str, object],
    message: str,
) -> None:
    item = make_item(sequence, 3)
    for name, value in fields.items():
        setattr(item, name, value)
    with pytest.raises(attnd.InvalidArgument, match=r"items\[1\]\." + message):
        session.attend([make_item(sequence, 3), item])


def test_types_are_checked(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    with pytest.raises(TypeError, match=r"items\[0\]\.q: got a builtins.list, expected a numpy"):
        session.attend([make_item(sequence, 1, q=[1.0])])
    with pytest.raises(TypeError, match=r"items\[0\]\.layer: got 'a', expected an integer"):
        session.attend([make_item(sequence, 1, layer="a")])
    with pytest.raises(attnd.InvalidArgument, match="requires a gradient"):
        session.attend([make_item(sequence, 1, q=torch.zeros(1, 4, 64, requires_grad=True))])
    with pytest.raises(attnd.InvalidArgument, match="items: got an empty batch"):
        session.attend([])
    with pytest.raises(ValueError, match="address: got ''"):
        attnd.Client("")


def test_the_same_layer_twice_is_refused(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    with pytest.raises(attnd.InvalidArgument):
        session.attend([make_item(sequence, 3), make_item(sequence, 3)])
    assert list(sequence.describe().layer_lengths) == [0, 0, 0]


def test_another_sessions_sequence_is_refused_before_it_is_sent(
    client: attnd.Client, session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    with (
        client.open_session() as other,
        pytest.raises(attnd.InvalidArgument, match=r"items\[0\]\.sequence: got one of another"),
    ):
        other.attend([make_item(sequence, 1)])


def test_truncated_bytes_are_refused_and_change_nothing(
    client: attnd.Client, session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    request = attention.pack_attend(session.id, session.epoch, [make_item(sequence, 4)])
    for cut in (1, 7, 40, len(request) // 2, len(request) - 1):
        with pytest.raises(attnd.AttndError) as raised:
            client.call_with_tensors("Attend", request[:cut])
        # What is left can be a shorter, valid message: of no session, of no items.
        assert isinstance(raised.value, attnd.InvalidArgument | attnd.NotFound | attnd.Internal), (
            raised.value
        )
    assert list(sequence.describe().layer_lengths) == [0, 0, 0]


def test_bytes_that_are_missing_are_refused(
    client: attnd.Client, session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    item = make_item(sequence, 4)
    whole = attention.pack_attend(session.id, session.epoch, [item])
    header, data = wire.split_response(whole)
    short = wire.join_request(header, [data[:-4]])
    response = client.call_with_tensors("Attend", short)
    with pytest.raises(attnd.InvalidArgument):
        raise attention.unpack_attend(response, [item])[0].error
    assert session.attend([item])[0].layer_length == 4


def test_a_message_over_the_limit_is_not_sent(client: attnd.Client, session: attnd.Session) -> None:
    limit = client.capabilities().max_message_bytes
    assert limit > 0
    client.capabilities().max_message_bytes = 3 << 20
    try:
        q = np.zeros((1, 4096, 4, 64), np.float32)
        with pytest.raises(attnd.MessageTooLarge, match="expected at most 3145728") as raised:
            client.flash_attention(q, q, q)
        assert raised.value.limit_bytes == 3 << 20
        assert not raised.value.retryable
    finally:
        client.capabilities().max_message_bytes = limit


def test_nan_reaches_its_own_rows_only(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make
) -> None:
    clean, dirty = session.create_sequence(cache), session.create_sequence(cache)
    item = make_item(dirty, 6)
    item.k[4] = np.nan
    other = make_item(clean, 6)
    results = session.attend([item, other])
    assert np.isfinite(results[0].out[:4]).all()
    assert np.isnan(results[0].out[4:]).all()
    assert np.isfinite(results[1].out).all()
