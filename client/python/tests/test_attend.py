# SPDX-License-Identifier: Apache-2.0
"""Attend: dtypes in and out, batches, steps, ragged batches against the fp64 reference."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attnd
import reference
from attnd import tensors
from attnd._proto import types_pb2
from conftest import Make

# Relative L2 norms: fp32 as in the contract; the others cover the rounding of the output.
TOLERANCE = {tensors.F32: 1e-6, tensors.F16: 1e-3, tensors.BF16: 8e-3}


def expected(item: attnd.Item, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    options = types_pb2.AttentionOptions()
    item.options.fill(options, attnd.options.Payload())
    out, _ = reference.attention(
        np.asarray(item.q, np.float64), k, v, start=item.start, options=options
    )
    return out


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))


def as_wire(values: np.ndarray, dtype: int, kind: str) -> np.ndarray | torch.Tensor:
    raw = reference.narrow(values, dtype)
    if kind == "numpy":
        return raw
    tensor = torch.from_numpy(raw)
    return tensor.view(torch.bfloat16) if dtype == tensors.BF16 else tensor


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", tensors.FLOATS, ids=tensors.dtype_name)
def test_every_dtype_goes_in_and_comes_out(
    client: attnd.Client, session: attnd.Session, dtype: int, kind: str
) -> None:
    cache = client.open_cache(
        f"pytest-{tensors.dtype_name(dtype)}",
        num_layers=1,
        num_query_heads=4,
        num_kv_heads=2,
        head_dim=64,
        head_dim_v=32,
        dtype=tensors.dtype_name(dtype),
    )
    rng = np.random.default_rng(1)
    wire = [
        as_wire(rng.standard_normal(shape), dtype, kind)
        for shape in ((21, 4, 64), (21, 2, 64), (21, 2, 32))
    ]
    item = attnd.Item(
        sequence=session.create_sequence(cache), layer=0, start=0, q=wire[0], k=wire[1], v=wire[2]
    )
    out = session.attend([item])[0].out
    assert out.shape == (21, 4, 32)
    if kind == "torch":
        assert out.dtype == wire[0].dtype
        out[0] = 0  # It is the caller's own, and writable.
        out = session.attend([item])[0].out.float().numpy()
        q, k, v = (tensor.float().numpy().astype(np.float64) for tensor in wire)
    else:
        assert out.dtype == wire[0].dtype
        assert not out.flags.writeable
        q, k, v = (reference.widen(array, dtype) for array in wire)
        out = reference.widen(out, dtype)
    item.q = q
    assert relative_error(out, expected(item, k, v)) < TOLERANCE[dtype]


def test_strided_and_big_endian_arrays_are_taken(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make
) -> None:
    dense = make_item(session.create_sequence(cache), 5)
    other = attnd.Item(
        sequence=session.create_sequence(cache),
        layer=0,
        start=0,
        q=torch.from_numpy(dense.q.copy()).transpose(0, 1).contiguous().transpose(0, 1),
        k=np.asfortranarray(dense.k),
        v=dense.v.astype(">f4"),
    )
    assert not other.q.is_contiguous()
    want, got = session.attend([dense, other])
    assert np.array_equal(got.out.numpy(), want.out)


def test_one_batch_serves_sequences_layers_and_lengths(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make
) -> None:
    sequences = [session.create_sequence(cache) for _ in range(4)]
    items = [
        make_item(sequence, 3 + 7 * index, layer=layer)
        for index, sequence in enumerate(sequences)
        for layer in range(3)
    ]
    batch = session.attend(items)
    assert [result.layer_length for result in batch] == [len(item.q) for item in items]
    assert batch.timing.total_ns > 0
    for item, result in zip(items, batch, strict=True):
        want = expected(item, item.k.astype(float), item.v.astype(float))
        assert relative_error(result.out, want) < 1e-6
        # What else is in the batch never changes a bit.
        assert np.array_equal(session.attend([item])[0].out, result.out)


def test_keys_of_earlier_calls_are_attended(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    first, second = make_item(sequence, 13), make_item(sequence, 4, start=13)
    session.attend([first])
    out = session.attend([second])[0].out
    k, v = (
        np.concatenate([getattr(first, part), getattr(second, part)]).astype(float) for part in "kv"
    )
    assert relative_error(out, expected(second, k, v)) < 1e-6


def test_writes_alone_and_reads_alone(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    write = make_item(sequence, 10, parts="kv")
    result = session.attend([write])[0]
    assert result.out is None
    assert result.layer_length == 10
    read = make_item(sequence, 1, start=9, parts="q")
    out = session.attend([read])[0].out
    assert relative_error(out, expected(read, write.k.astype(float), write.v.astype(float))) < 1e-6
    read.start, read.kv_length = 3, 4
    out = session.attend([read])[0].out
    assert relative_error(out, expected(read, write.k[:4].astype(float), write.v[:4])) < 1e-6


def test_options_and_log_sum_exp(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    options = attnd.Options(
        causal=True, softmax_scale=0.2, window_left=3, softcap=5.0, return_lse=True
    )
    item = make_item(sequence, 12, options=options)
    result = session.attend([item])[0]
    message = types_pb2.AttentionOptions()
    options.fill(message, attnd.options.Payload())
    out, lse = reference.attention(
        item.q.astype(float), item.k.astype(float), item.v.astype(float), start=0, options=message
    )
    assert relative_error(result.out, out) < 1e-6
    assert result.lse.shape == (4, 12)
    assert np.allclose(result.lse, lse, rtol=1e-5, atol=1e-5)


def test_the_same_step_again_writes_nothing(
    client: attnd.Client, session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    item = make_item(sequence, 6)
    first = session.attend([item])[0]
    written = client.stats().tokens_written_total
    again = session.attend([item])[0]
    assert item.step == 1
    assert again.replayed
    assert not first.replayed
    assert again.layer_length == 6
    assert np.array_equal(again.out, first.out)
    assert client.stats().tokens_written_total == written


def test_a_lower_step_is_aborted(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    item = make_item(sequence, 2)
    session.attend([item])
    session.attend([make_item(sequence, 2, start=2)])
    with pytest.raises(attnd.Aborted):
        session.attend([item])


def test_writing_below_the_length_shortens(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make
) -> None:
    session.attend([make_item(sequence, 20)])
    assert session.attend([make_item(sequence, 2, start=11)])[0].layer_length == 13


def test_items_fail_one_by_one(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make
) -> None:
    good, bad = session.create_sequence(cache), session.create_sequence(cache)
    items = [make_item(good, 3), make_item(bad, 3, start=5)]
    results = session.attend(items, check=False)
    assert results[0].error is None
    assert results[0].out.shape == (3, 4, 64)
    assert isinstance(results[1].error, attnd.FailedPrecondition)
    assert bad.describe().layer_lengths == [0, 0, 0]
    with pytest.raises(attnd.FailedPrecondition) as raised:
        session.attend(items)
    assert raised.value.item == 1
    assert raised.value.results is not None
    assert raised.value.results[0].out is not None


def test_many_threads_share_a_session(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make
) -> None:
    def prefill_and_decode(item: attnd.Item) -> bool:
        outs = [session.attend([item])[0].out]
        for position in range(1, 9):
            step = attnd.Item(
                sequence=item.sequence,
                layer=0,
                start=position,
                **{part: getattr(item, part)[-1:] for part in "qkv"},
            )
            outs.append(session.attend([step])[0].out)
        k, v = (np.repeat(getattr(item, part).astype(float), 9, axis=0) for part in "kv")
        return relative_error(outs[-1], expected(step, k, v)) < 1e-6

    items = [make_item(session.create_sequence(cache), 1) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(prefill_and_decode, items))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_random_ragged_batches_equal_the_reference(
    session: attnd.Session, cache: attnd.KvCache, data: st.DataObject
) -> None:
    """Rounds of random batches over a few sequences, each with a model of what it holds."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    sequences = [session.create_sequence(cache) for _ in range(data.draw(st.integers(1, 4)))]
    empty = np.zeros((0, 2, 64), np.float32)
    held = {(s, layer): (empty, empty) for s in range(len(sequences)) for layer in range(3)}
    for _ in range(data.draw(st.integers(1, 4), "rounds")):
        chosen = data.draw(
            st.lists(st.sampled_from(sorted(held)), min_size=1, max_size=6, unique=True)
        )
        items, wants = [], []
        for s, layer in chosen:
            old_k, old_v = held[s, layer]
            n = data.draw(st.integers(1, 24), "n")
            start = data.draw(st.integers(max(0, len(old_k) - 20), len(old_k)), "start")
            options = attnd.Options(
                causal=data.draw(st.booleans(), "causal"),
                softcap=data.draw(st.sampled_from([0.0, 10.0]), "softcap"),
                window_left=data.draw(st.sampled_from([None, 0, 9]), "window_left"),
            )
            q = rng.standard_normal((n, 4, 64), np.float32)
            k, v = rng.standard_normal((2, n, 2, 64), np.float32)
            item = attnd.Item(
                sequence=sequences[s], layer=layer, start=start, q=q, k=k, v=v, options=options
            )
            held[s, layer] = (
                np.concatenate([old_k[:start], k]),
                np.concatenate([old_v[:start], v]),
            )
            items.append(item)
            wants.append(expected(item, *(array.astype(float) for array in held[s, layer])))
        for item, want, result in zip(items, wants, session.attend(items), strict=True):
            assert result.layer_length == item.start + len(item.q)
            assert relative_error(result.out, want) < 1e-6
    for sequence in sequences:
        sequence.free()
