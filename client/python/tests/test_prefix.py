# SPDX-License-Identifier: Apache-2.0
"""Content keys, and what sequences share by them: matching, publishing, tenants, bad input."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import sys

import numpy as np
import pytest

import attnd
from attnd.prefix import page_keys
from conftest import SOURCE, Daemon, Make

PAGE = 8  # of the fixture `cache`
LAYERS = 3


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("ATTND_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"ATTND_TEST_SEED={seed}")
    return random.Random(seed)


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(2**31) for _ in range(length)]


def compute(
    session: attnd.Session, sequence: attnd.Sequence, make_item: Make, start: int, end: int
) -> list[attnd.Item]:
    """Writes random keys and values at [start, end) of every layer."""
    items = [
        make_item(
            sequence, end - start, layer=layer, start=start, options=attnd.Options(causal=True)
        )
        for layer in range(LAYERS)
    ]
    session.attend(items)
    return items


def create(
    session: attnd.Session, cache: attnd.KvCache, ids: list[int], salt: bytes = b""
) -> attnd.Sequence:
    return session.create_sequence(
        cache, prefix_keys=page_keys(ids, PAGE, salt), num_tokens=len(ids)
    )


def test_page_keys_are_the_chain_that_the_docstring_says() -> None:
    ids = list(range(100, 111))
    root = hashlib.sha256(b"attnd.page_keys.1" + struct.pack("<IQ", 4, 3) + b"abc").digest()
    first = hashlib.sha256(root + struct.pack("<4Q", *ids[:4])).digest()
    second = hashlib.sha256(first + struct.pack("<4Q", *ids[4:8])).digest()
    assert page_keys(ids, 4, b"abc") == [first, second]


def test_a_key_commits_to_all_tokens_before(rng: random.Random) -> None:
    ids = prompt(rng, 40)
    keys = page_keys(ids, PAGE)
    assert len(keys) == 5
    assert keys == page_keys(np.array(ids, np.uint32), PAGE) == page_keys(tuple(ids), PAGE)
    for page in range(5):
        other = list(ids)
        other[page * PAGE + rng.randrange(PAGE)] ^= 1
        changed = page_keys(other, PAGE)
        assert changed[:page] == keys[:page]
        assert not set(changed[page:]) & set(keys)
    assert not set(page_keys(ids, PAGE, b"lora")) & set(keys)
    assert not set(page_keys(ids, 2 * PAGE)) & set(keys)
    assert page_keys(ids[: PAGE - 1], PAGE) == page_keys([], PAGE) == []


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([0, -1], attnd.InvalidArgument, "token_ids: got -1 to 0"),
        ([2**63], attnd.InvalidArgument, "expected 0 to 9223372036854775807"),
        ([0, 2**80], attnd.InvalidArgument, r"token_ids\[1\]: got 1208925819614629174706176"),
        ([1, 2.5], TypeError, r"token_ids\[1\]: got 2.5"),
        (["a"], TypeError, r"token_ids\[0\]: got 'a'"),
        ([[1, 2], [3, 4]], attnd.InvalidArgument, r"token_ids: got shape \[2, 2\]"),
        ([[1], [3, 4]], attnd.InvalidArgument, "token_ids: got nested sequences"),
    ],
)
def test_page_keys_name_a_bad_id(ids: list[int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        page_keys(ids, 4)


def test_page_keys_name_other_bad_arguments() -> None:
    with pytest.raises(attnd.InvalidArgument, match="page_size_tokens: got 0, expected 1 to 1024"):
        page_keys([1], 0)
    with pytest.raises(TypeError, match="salt: got a str, expected bytes"):
        page_keys([1], 4, "salt")  # type: ignore[arg-type]


def test_torch_ids_have_the_same_keys(rng: random.Random) -> None:
    torch = pytest.importorskip("torch")
    ids = prompt(rng, 20)
    assert page_keys(torch.tensor(ids), PAGE) == page_keys(ids, PAGE)


def test_a_second_sequence_computes_only_what_is_new(
    client: attnd.Client,
    session: attnd.Session,
    cache: attnd.KvCache,
    make_item: Make,
    rng: random.Random,
) -> None:
    ids = prompt(rng, 3 * PAGE + 5)
    keys = page_keys(ids, PAGE)
    first = create(session, cache, ids)
    assert first.matched_tokens == 0
    items = compute(session, first, make_item, 0, len(ids))
    assert session.match_prefix(cache, keys, len(ids)) == 0
    assert first.publish(keys) == 3
    assert session.match_prefix(cache, keys, len(ids)) == 3 * PAGE

    before = client.stats()
    second = create(session, cache, ids)
    assert second.matched_tokens == 3 * PAGE
    assert list(second.describe().layer_lengths) == [3 * PAGE] * LAYERS
    rest = [
        attnd.Item(
            sequence=second,
            layer=item.layer,
            start=3 * PAGE,
            q=item.q[3 * PAGE :],
            k=item.k[3 * PAGE :],
            v=item.v[3 * PAGE :],
            options=item.options,
        )
        for item in items
    ]
    again = session.attend(rest)
    reads = [
        attnd.Item(
            sequence=first, layer=i.layer, start=3 * PAGE, q=i.q[3 * PAGE :], options=i.options
        )
        for i in items
    ]
    for ours, theirs in zip(again, session.attend(reads), strict=True):
        assert np.array_equal(ours.out, theirs.out)
    after = client.stats()
    assert after.tokens_written_total - before.tokens_written_total == 5 * LAYERS
    queried = after.prefix_tokens_queried_total - before.prefix_tokens_queried_total
    matched = after.prefix_tokens_matched_total - before.prefix_tokens_matched_total
    assert (queried, matched) == (len(ids), 3 * PAGE)


def test_at_least_one_token_is_left(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make, rng: random.Random
) -> None:
    ids = prompt(rng, 2 * PAGE)
    keys = page_keys(ids, PAGE)
    first = session.create_sequence(cache)
    items = compute(session, first, make_item, 0, len(ids))
    first.publish(keys)
    second = create(session, cache, ids)
    assert second.matched_tokens == 2 * PAGE - 1
    # The last token goes into a copy: what is published stays as it is.
    compute(session, second, make_item, 2 * PAGE - 1, 2 * PAGE)
    third = session.create_sequence(cache, prefix_keys=keys, num_tokens=2 * PAGE + 1)
    assert third.matched_tokens == 2 * PAGE
    last = items[0].q[-1:]
    read = [attnd.Item(sequence=s, layer=0, start=2 * PAGE - 1, q=last) for s in (first, third)]
    outs = [result.out for result in session.attend(read)]
    assert np.array_equal(*outs)


def test_the_publisher_writes_to_a_copy_too(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make, rng: random.Random
) -> None:
    ids = prompt(rng, 2 * PAGE)
    keys = page_keys(ids, PAGE)
    publisher = session.create_sequence(cache)
    items = compute(session, publisher, make_item, 0, len(ids))
    publisher.publish(keys)
    read = {"layer": 0, "start": len(ids) - 1, "q": items[0].q[-1:]}
    before = session.attend([attnd.Item(sequence=publisher, **read)])[0].out
    compute(session, publisher, make_item, 0, len(ids))
    changed = session.attend([attnd.Item(sequence=publisher, **read)])[0].out
    assert not np.array_equal(changed, before)
    reader = session.create_sequence(cache, prefix_keys=keys, num_tokens=len(ids) + 1)
    assert np.array_equal(session.attend([attnd.Item(sequence=reader, **read)])[0].out, before)
    # What it wrote has no key yet, and its former keys keep their pages.
    assert publisher.publish(keys) == 2
    reader = session.create_sequence(cache, prefix_keys=keys, num_tokens=len(ids) + 1)
    assert np.array_equal(session.attend([attnd.Item(sequence=reader, **read)])[0].out, before)


def test_the_match_ends_at_the_first_miss(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make, rng: random.Random
) -> None:
    ids = prompt(rng, 4 * PAGE)
    keys = page_keys(ids, PAGE)
    publisher = session.create_sequence(cache)
    compute(session, publisher, make_item, 0, len(ids))
    assert publisher.publish(keys[2:], first_page=2) == 2
    assert session.match_prefix(cache, keys, len(ids)) == 0
    assert publisher.publish(keys[:1]) == 1
    assert session.match_prefix(cache, keys, len(ids)) == PAGE
    assert publisher.publish(keys) == 4
    assert session.match_prefix(cache, keys, len(ids) + 1) == 4 * PAGE
    other = ids[: 2 * PAGE] + prompt(rng, 2 * PAGE)
    assert create(session, cache, other).matched_tokens == 2 * PAGE


def test_what_was_published_outlives_its_session(
    client: attnd.Client, cache: attnd.KvCache, make_item: Make, rng: random.Random
) -> None:
    ids = prompt(rng, 2 * PAGE + 1)
    keys = page_keys(ids, PAGE)
    cached = pages_cached(client, cache)
    with client.open_session() as publisher:
        sequence = publisher.create_sequence(cache)
        compute(publisher, sequence, make_item, 0, len(ids))
        sequence.publish(keys)
        assert pages_cached(client, cache) == cached
    assert pages_cached(client, cache) == cached + 2
    with client.open_session() as session:
        assert create(session, cache, ids).matched_tokens == 2 * PAGE
        assert pages_cached(client, cache) == cached


def pages_cached(client: attnd.Client, cache: attnd.KvCache) -> int:
    return next(info.pages_cached for info in client.stats().caches if info.name == cache.name)


def test_tenants_do_not_see_each_other(
    client: attnd.Client, cache: attnd.KvCache, make_item: Make, rng: random.Random
) -> None:
    ids = prompt(rng, 2 * PAGE + 1)
    keys = page_keys(ids, PAGE)
    outs = {}
    with client.open_session(tenant="a") as a, client.open_session(tenant="b") as b:
        for session in (a, b):
            sequence = create(session, cache, ids)
            assert sequence.matched_tokens == 0
            items = compute(session, sequence, make_item, 0, len(ids))
            sequence.publish(keys)
            q = items[0].q[-1:]
            read = attnd.Item(sequence=sequence, layer=0, start=0, q=q, kv_length=2 * PAGE)
            outs[session] = q, session.attend([read])[0].out
        for session, (q, out) in outs.items():
            sequence = create(session, cache, ids)
            assert sequence.matched_tokens == 2 * PAGE
            read = attnd.Item(sequence=sequence, layer=0, start=0, q=q, kv_length=2 * PAGE)
            assert np.array_equal(session.attend([read])[0].out, out)
    with client.open_session() as nobody:
        assert nobody.match_prefix(cache, keys, len(ids)) == 0
    token = client.open_session(tenant="a").release()
    with client.resume_session(token) as resumed:
        assert resumed.match_prefix(cache, keys, len(ids)) == 2 * PAGE


def test_caches_do_not_see_each_other(
    client: attnd.Client,
    session: attnd.Session,
    cache: attnd.KvCache,
    make_item: Make,
    rng: random.Random,
) -> None:
    ids = prompt(rng, PAGE + 1)
    keys = page_keys(ids, PAGE)
    sequence = session.create_sequence(cache)
    compute(session, sequence, make_item, 0, len(ids))
    sequence.publish(keys)
    shape = {"num_layers": LAYERS, "num_query_heads": 4, "num_kv_heads": 2, "head_dim": 64}
    other = client.open_cache("other", page_size_tokens=PAGE, **shape)
    assert session.match_prefix(other, keys, len(ids)) == 0
    client.close_cache(other)


def test_another_process_matches(
    daemon: Daemon,
    session: attnd.Session,
    cache: attnd.KvCache,
    make_item: Make,
    rng: random.Random,
) -> None:
    ids = prompt(rng, 2 * PAGE + 3)
    sequence = session.create_sequence(cache)
    compute(session, sequence, make_item, 0, len(ids))
    sequence.publish(page_keys(ids, PAGE))
    script = f"""
import attnd
from attnd.prefix import page_keys
with attnd.Client({daemon.address!r}) as client, client.open_session() as session:
    cache = next(c for c in client.list_caches() if c.name == {cache.name!r})
    keys = page_keys({ids!r}, cache.geometry.page_size_tokens)
    print(session.create_sequence(cache, prefix_keys=keys, num_tokens={len(ids)}).matched_tokens)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout) == 2 * PAGE


def test_an_incomplete_page_is_not_published(
    session: attnd.Session, cache: attnd.KvCache, make_item: Make, rng: random.Random
) -> None:
    keys = page_keys(prompt(rng, 2 * PAGE), PAGE)
    sequence = session.create_sequence(cache)
    session.attend([make_item(sequence, 2 * PAGE, layer=layer) for layer in (0, 2)])
    session.attend([make_item(sequence, 2 * PAGE - 1, layer=1)])
    with pytest.raises(attnd.FailedPrecondition, match=r"layer 1 .*15"):
        sequence.publish(keys)
    assert sequence.publish(keys[:1]) == 1
    assert sequence.publish([]) == 0
    with pytest.raises(attnd.FailedPrecondition, match=r"page 0 .*another key"):
        sequence.publish(page_keys(prompt(rng, PAGE), PAGE))


def test_bad_prefixes_are_refused_here(session: attnd.Session, cache: attnd.KvCache) -> None:
    key = bytes(16)
    refusals = [
        ([key, bytes(15)], 16, attnd.InvalidArgument, r"prefix_keys\[1\]: got 15 bytes"),
        ([bytes(65)], 8, attnd.InvalidArgument, r"prefix_keys\[0\]: got 65 bytes"),
        (["k" * 16], 8, TypeError, r"prefix_keys\[0\]: got a str"),
        ([key] * 2, 15, attnd.InvalidArgument, "2 keys of pages of 8 tokens for a prompt of 15"),
        ([key], 0, attnd.InvalidArgument, "num_tokens: got 0"),
        ([key], None, attnd.InvalidArgument, "num_tokens: got None"),
        (None, 8, attnd.InvalidArgument, "num_tokens: got 8 without prefix_keys"),
        ([key] * (2**16 + 1), 2**40, attnd.InvalidArgument, "got 65537 keys"),
    ]
    for keys, num_tokens, error, message in refusals:
        with pytest.raises(error, match=message):
            session.create_sequence(cache, prefix_keys=keys, num_tokens=num_tokens)
    sequence = session.create_sequence(cache)
    with pytest.raises(attnd.InvalidArgument, match=r"keys\[0\]: got 0 bytes"):
        sequence.publish([b""])
    with pytest.raises(attnd.InvalidArgument, match="first_page: got -1"):
        sequence.publish([key], first_page=-1)
    with pytest.raises(attnd.InvalidArgument, match="tenant: got 129 bytes"):
        session.client.open_session(tenant="t" * 129)


def test_bad_prefixes_are_refused_there(session: attnd.Session, cache: attnd.KvCache) -> None:
    """By the daemon, for clients that check nothing."""
    from attnd._proto import sequence_pb2

    sequence = session.create_sequence(cache)

    def match(keys: list[bytes], num_tokens: int) -> None:
        request = sequence_pb2.MatchPrefixRequest(cache=cache.id, keys=keys, num_tokens=num_tokens)
        session.call("MatchPrefix", request, sequence_pb2.MatchPrefixResponse)

    def create(keys: list[bytes], num_tokens: int) -> None:
        request = sequence_pb2.CreateSequenceRequest(cache=cache.id)
        request.prefix.CopyFrom(sequence_pb2.Prefix(keys=keys, num_tokens=num_tokens))
        session.call("CreateSequence", request, sequence_pb2.CreateSequenceResponse)

    def publish(keys: list[bytes], first_page: int) -> None:
        request = sequence_pb2.PublishPrefixRequest(
            sequence=sequence.id, keys=keys, first_page=first_page
        )
        session.call("PublishPrefix", request, sequence_pb2.PublishPrefixResponse)

    key = bytes(16)
    for call in (match, create):
        for keys, num_tokens in (([key, bytes(15)], 16), ([bytes(65)], 8), ([key], 7), ([], 0)):
            with pytest.raises(attnd.InvalidArgument):
                call(keys, num_tokens)
    for keys, first_page in (([bytes(15)], 0), ([key], -1)):
        with pytest.raises(attnd.InvalidArgument):
            publish(keys, first_page)
    with pytest.raises(attnd.FailedPrecondition):
        publish([key], 2**62)
