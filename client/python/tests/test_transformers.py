# SPDX-License-Identifier: Apache-2.0
"""transformers on attnd: padding, resume, no keys in the client, and SmolLM2's own tokens.

Most of this runs on a random model of 2 layers; the last test on SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import attnd
from attnd.demo import generation, model
from attnd.transformers import AttndCache, TokenJournal, enable, register, resume

PROMPTS = [[11, 7, 2, 90], [5], [8, 8, 40, 41, 42, 43, 44, 99, 3], [1, 2, 3, 4, 5, 6]]


@pytest.fixture(scope="module")
def tiny() -> Iterator[LlamaForCausalLM]:
    """A random Llama with grouped heads, in fp32, and one torch thread for its small matrices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    register()
    yield LlamaForCausalLM(config).eval()
    torch.set_num_threads(threads)


@pytest.fixture
def with_attnd(tiny: LlamaForCausalLM) -> Iterator[LlamaForCausalLM]:
    tiny.set_attn_implementation("attnd")
    yield tiny
    tiny.set_attn_implementation("eager")


def padded(prompts: list[list[int]]) -> generation.Batch:
    columns = max(map(len, prompts))
    ids = torch.tensor([[0] * (columns - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (columns - len(p)) + [1] * len(p) for p in prompts])
    return generation.Batch(ids, mask)


def new_cache(session: attnd.Session, tiny: Any, rows: int) -> AttndCache:
    return AttndCache.create(session, tiny.config, batch_size=rows, name="tiny", page_size_tokens=4)


def run(
    tiny: Any, batch: generation.Batch, cache: AttndCache | None, n: int = 12
) -> list[list[int]]:
    return generation.generate(tiny, batch, n, lambda count: None, cache=cache)


def test_a_padded_batch_gives_the_tokens_of_each_prompt_alone(
    tiny: Any, session: attnd.Session
) -> None:
    alone = [run(tiny, padded([prompt]), None)[0] for prompt in PROMPTS]
    tiny.set_attn_implementation("attnd")
    try:
        cache = new_cache(session, tiny, len(PROMPTS))
        assert run(tiny, padded(PROMPTS), cache) == alone
    finally:
        tiny.set_attn_implementation("eager")
    # The daemon holds each row's tokens and not one of padding; the last one was never fed back.
    lengths = [len(prompt) + 11 for prompt in PROMPTS]
    assert cache.lengths == lengths
    for sequence, length in zip(cache.sequences, lengths, strict=True):
        assert list(sequence.describe().layer_lengths) == [length, length]


def test_logits_equal_eager_attention(tiny: Any, session: attnd.Session) -> None:
    batch = padded(PROMPTS)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    position_ids = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        eager = tiny(**inputs, position_ids=position_ids).logits
        tiny.set_attn_implementation("attnd")
        cache = new_cache(session, tiny, len(PROMPTS))
        ours = tiny(**inputs, position_ids=position_ids, past_key_values=cache).logits
        tiny.set_attn_implementation("eager")
    real = batch.attention_mask.bool()
    error = torch.linalg.norm(ours[real] - eager[real]) / torch.linalg.norm(eager[real])
    assert error < 2e-6


def is_tensor(thing: object) -> bool:
    # isinstance would ask the object's own __class__, and torch has objects that warn about that.
    return issubclass(type(thing), torch.Tensor)


def test_the_client_keeps_no_keys_and_values(with_attnd: Any, session: attnd.Session) -> None:
    batch = padded(PROMPTS)
    cache = new_cache(session, with_attnd, len(PROMPTS))
    run(with_attnd, batch, cache)
    assert all(layer.keys is None and layer.values is None for layer in cache.layers)
    gc.collect()
    seen: set[int] = set()
    reachable: list[Any] = [cache]
    while reachable:
        thing = reachable.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        assert not is_tensor(thing), "a tensor hangs on the cache"
        if isinstance(thing, list | tuple | set):
            reachable.extend(thing)
        elif isinstance(thing, dict):
            reachable.extend(thing.values())
        elif type(thing).__module__.startswith(("attnd", "transformers.cache_utils")):
            reachable.extend(getattr(thing, "__dict__", {}).values())
    # Nor anywhere else: no tensor with a head dimension is left over.
    shape = with_attnd.config
    leftovers = [
        thing.shape
        for thing in gc.get_objects()
        if is_tensor(thing)
        and thing.dim() == 4
        and thing.shape[1] == shape.num_key_value_heads
        and thing.shape[3] == shape.head_dim
    ]
    assert leftovers == []


def test_one_attend_per_layer_carries_all_rows(
    client: attnd.Client, with_attnd: Any, session: attnd.Session
) -> None:
    before = client.stats()
    cache = new_cache(session, with_attnd, len(PROMPTS))
    run(with_attnd, padded(PROMPTS), cache, n=5)
    after = client.stats()
    assert cache.clock.calls == 5 * 2
    assert after.items_total - before.items_total == 5 * 2 * len(PROMPTS)
    written = sum(len(prompt) + 4 for prompt in PROMPTS) * 2
    assert after.tokens_written_total - before.tokens_written_total == written


@pytest.mark.parametrize("stop", ["between tokens", "in a forward pass", "in the journal"])
def test_a_new_client_goes_on_with_the_token_alone(
    client: attnd.Client, with_attnd: Any, stop: str
) -> None:
    class Killed(Exception):
        pass

    batch = padded(PROMPTS)
    session = client.open_session(lease_s=60)
    want = run(with_attnd, batch, new_cache(session, with_attnd, len(PROMPTS)))
    session.close()

    session = client.open_session(lease_s=60)
    cache = new_cache(session, with_attnd, len(PROMPTS))
    journal = TokenJournal(cache, batch.attention_mask, new_tokens=12)
    attend, set_state, tokens = session.attend, cache.sequences[2].set_client_state, 0

    def die_in_attend(*args: Any, **kwargs: Any) -> Any:
        if tokens == 5 and stop == "in a forward pass" and cache.clock.calls % 2 == 1:
            raise Killed
        return attend(*args, **kwargs)

    def die_in_journal(state: bytes, **kwargs: Any) -> int:
        if tokens == 5 and stop == "in the journal":
            raise Killed
        return set_state(state, **kwargs)

    def on_token(count: int) -> None:
        nonlocal tokens
        tokens = count
        if tokens == 5 and stop == "between tokens":
            raise Killed

    session.attend, cache.sequences[2].set_client_state = die_in_attend, die_in_journal
    with pytest.raises(Killed):
        generation.generate(with_attnd, batch, 12, on_token, cache=cache, journal=journal)
    token = session.release()

    resumed = resume(client, token)
    with resumed.session:
        assert [state.prompt_length for state in resumed.states] == [len(p) for p in PROMPTS]
        assert all(1 <= count <= 2 for count in resumed.recomputed)
        restarts = list(resumed.cache.lengths)
        before = client.stats().tokens_written_total
        assert generation.finish(with_attnd, resumed, lambda count: None) == want
        written = client.stats().tokens_written_total - before
        assert written == (sum(resumed.cache.lengths) - sum(restarts)) * 2
        assert all(
            restart >= len(prompt) for restart, prompt in zip(restarts, PROMPTS, strict=True)
        )


def test_padding_on_the_right_is_refused(with_attnd: Any, session: attnd.Session) -> None:
    cache = new_cache(session, with_attnd, 2)
    ids = torch.tensor([[5, 6, 0], [7, 8, 9]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    with (
        torch.no_grad(),
        pytest.raises(attnd.InvalidArgument, match="padding behind tokens"),
    ):
        with_attnd(input_ids=ids, attention_mask=mask, past_key_values=cache)


def test_a_wrong_batch_size_is_refused(with_attnd: Any, session: attnd.Session) -> None:
    cache = new_cache(session, with_attnd, 2)
    with (
        torch.no_grad(),
        pytest.raises(attnd.InvalidArgument, match="got 1 rows, expected 2"),
    ):
        with_attnd(input_ids=torch.tensor([[5, 6]]), past_key_values=cache)


def test_training_is_refused(with_attnd: Any, session: attnd.Session) -> None:
    cache = new_cache(session, with_attnd, 1)
    with pytest.raises(attnd.InvalidArgument, match="have no gradients"):
        with_attnd(input_ids=torch.tensor([[5, 6]]), past_key_values=cache)


def test_a_model_in_bf16_is_served(with_attnd: Any, session: attnd.Session) -> None:
    batch = padded(PROMPTS)
    cache = AttndCache.create(
        session, with_attnd.config, batch_size=len(PROMPTS), name="tiny-bf16", dtype=torch.bfloat16
    )
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    half = copy.deepcopy(with_attnd).to(torch.bfloat16)
    with torch.inference_mode():
        ours = half(**inputs, past_key_values=cache).logits
        half.set_attn_implementation("eager")
        eager = half(**inputs).logits
    real = batch.attention_mask.bool()
    assert ours.dtype == torch.bfloat16
    error = torch.linalg.norm((ours - eager)[real].float())
    assert error < 0.02 * torch.linalg.norm(eager[real].float())


def test_a_journal_stops_at_the_end_of_a_text(session: attnd.Session, tiny: Any) -> None:
    from attnd.token_state import TokenState

    cache = new_cache(session, tiny, 2)
    journal = TokenJournal(cache, torch.tensor([[0, 1], [1, 1]]), eos_token_id=9)
    assert not journal(torch.tensor([[0, 9, 4, 9, 0], [9, 6, 7, 8, 5]]), None).any()
    states = [TokenState.decode(sequence.describe().client_state) for sequence in cache.sequences]
    assert [state.ids for state in states] == [[9, 4, 9], [9, 6, 7, 8, 5]]
    assert [state.prompt_length for state in states] == [1, 2]


@pytest.fixture(scope="module")
def smollm2() -> Any:
    try:
        folder = os.environ.get("ATTND_MODEL_DIR")
        path = model.prepare(Path(folder) if folder else None)
    except model.ModelMissing as missing:
        pytest.skip(str(missing))
    register()
    return model.load(path, "eager")


def test_smollm2_says_the_same_as_with_eager_attention(
    session: attnd.Session, smollm2: Any
) -> None:
    language_model, tokenizer = smollm2
    prompts = ("Name three rivers.", "What is the capital of France, and what is it known for?")
    batch = generation.encode(tokenizer, prompts)
    want = generation.generate(language_model, batch, 16, lambda count: None)
    language_model.set_attn_implementation("attnd")
    ours, _ = generation.generate_with_attnd(language_model, batch, 16, session, lambda count: None)
    language_model.set_attn_implementation("eager")
    assert ours == want


def logits_of(language_model: Any, batch: generation.Batch) -> torch.Tensor:
    """Of the real tokens, [tokens, vocabulary], in fp32."""
    positions = (batch.attention_mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = language_model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=positions,
            use_cache=False,
        ).logits
    return logits[batch.attention_mask.bool()].float()


@pytest.fixture(scope="module")
def served(client: attnd.Client, smollm2: Any) -> Any:
    """The same weights, with attnd for attention and cache."""
    language_model, _ = smollm2
    return enable(copy.deepcopy(language_model), client)


PAIR = ("Name three rivers.", "What is the capital of France, and what is it known for?")


@pytest.mark.parametrize(
    "flags", [{"num_beams": 3}, {"prompt_lookup_num_tokens": 4}], ids=["beams", "assisted"]
)
def test_smollm2_with_beams_and_assistants(
    daemon: Any, smollm2: Any, served: Any, flags: dict[str, int]
) -> None:
    if daemon.kind == "fake":
        pytest.skip("minutes of numpy")
    language_model, tokenizer = smollm2
    prompts = PAIR if "num_beams" in flags else PAIR[1:]
    batch = generation.encode(tokenizer, prompts)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.inference_mode():
        want, got = (
            each.generate(**inputs, max_new_tokens=12, do_sample=False, **flags)
            for each in (language_model, served)
        )
    assert got.tolist() == want.tolist()


def test_smollm2_in_bf16_is_as_far_from_fp32_as_eager_is(
    client: attnd.Client, daemon: Any, smollm2: Any
) -> None:
    if daemon.kind == "fake":
        pytest.skip("minutes of numpy")
    language_model, tokenizer = smollm2
    batch = generation.encode(tokenizer, PAIR)
    truth = logits_of(language_model, batch)
    half = copy.deepcopy(language_model).to(torch.bfloat16)
    eager = logits_of(half, batch)
    ours = logits_of(enable(half, client), batch)
    norm = torch.linalg.norm(truth)
    eager_error, our_error = (torch.linalg.norm(x - truth) / norm for x in (eager, ours))
    # Attention rounds less than eager's does, the rest of the model the same.
    assert our_error <= 1.1 * eager_error
    assert torch.linalg.norm(ours - eager) / norm <= 2 * eager_error
