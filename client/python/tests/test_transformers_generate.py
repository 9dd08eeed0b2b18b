# SPDX-License-Identifier: Apache-2.0
"""attnd.transformers.enable: beams, sampling, assistants, windows and prefixes, as with eager."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import attnd
from attnd.transformers import AttndCache, enable, model_salt, wait_until_freed
from tiny_models import FAMILIES, PROMPTS, llama, padded, relative_error

N = 10


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generate(model: Any, prompts: list[list[int]], **flags: Any) -> Any:
    flags = {"max_new_tokens": N, "do_sample": False} | flags
    with torch.no_grad():
        return model.generate(**padded(prompts), **flags)


@pytest.fixture(scope="module")
def models(client: attnd.Client) -> tuple[Any, Any]:
    """The same Llama twice: eager, and on attnd without shared prefixes."""
    model = llama()
    return model, enable(copy.deepcopy(model), client, reuse_prefix=False)


MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "top_k": 20, "temperature": 1.5, "num_return_sequences": 2},
    "beam sampling": {"do_sample": True, "num_beams": 3},
    "in chunks": {"prefill_chunk_size": 3},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_padded_batch_is_generated_as_with_eager(models: tuple[Any, Any], mode: str) -> None:
    eager, ours = models
    torch.manual_seed(3)
    want = generate(eager, PROMPTS, **MODES[mode])
    torch.manual_seed(3)
    assert generate(ours, PROMPTS, **MODES[mode]).tolist() == want.tolist()


@pytest.mark.parametrize("assistant", ["another model", "prompt lookup", "itself"])
def test_assisted_generation_is_greedy_generation(
    client: attnd.Client, models: tuple[Any, Any], assistant: str
) -> None:
    eager, ours = models
    # A prompt that repeats itself gives prompt lookup something to find.
    prompt = [[11, 7, 2, 90, 11, 7, 2, 90, 11, 7]]
    flags: dict[str, Any] = {"prompt_lookup_num_tokens": 3}
    if assistant == "another model":
        flags = {"assistant_model": enable(llama(seed=5), client, reuse_prefix=False)}
    elif assistant == "itself":
        flags = {"assistant_model": ours}
    before = client.stats().sequences
    want = generate(eager, prompt, max_new_tokens=2 * N).tolist()
    assert generate(ours, prompt, max_new_tokens=2 * N, **flags).tolist() == want
    gc.collect()
    assert wait_until_freed(30)
    assert client.stats().sequences == before


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_attends_as_with_eager(client: attnd.Client, family: str) -> None:
    eager = FAMILIES[family]()
    batch = padded([[*range(3, 14)], [7, 8, 9], [*range(40, 60)]])
    want = generate(eager, [[*range(3, 14)], [7, 8, 9], [*range(40, 60)]])
    with torch.no_grad():
        want_logits = eager(**batch).logits
        ours = enable(eager, client)
        real = batch["attention_mask"].bool()
        logits = ours(**batch, use_cache=False).logits
    assert relative_error(logits[real], want_logits[real]) < 3e-6
    got = generate(ours, [[*range(3, 14)], [7, 8, 9], [*range(40, 60)]])
    assert got.tolist() == want.tolist()


def test_nothing_is_left_behind_by_generate(client: attnd.Client, models: tuple[Any, Any]) -> None:
    before = client.stats().sequences
    for mode in MODES.values():
        generate(models[1], PROMPTS, **mode)
    assert client.stats().sequences == before
    result = generate(models[1], PROMPTS, return_dict_in_generate=True)
    assert client.stats().sequences == before + len(PROMPTS)
    assert isinstance(result.past_key_values, AttndCache)
    del result
    gc.collect()
    assert wait_until_freed(30)
    assert client.stats().sequences == before


def test_generation_goes_on_from_a_cache_that_was_returned(models: tuple[Any, Any]) -> None:
    eager, ours = models
    want = generate(eager, PROMPTS, max_new_tokens=2 * N)
    first = generate(ours, PROMPTS, return_dict_in_generate=True)
    mask = padded(PROMPTS)["attention_mask"]
    mask = torch.cat([mask, torch.ones((len(PROMPTS), N), dtype=mask.dtype)], dim=1)
    with torch.no_grad():
        rest = ours.generate(
            input_ids=first.sequences,
            attention_mask=mask,
            past_key_values=first.past_key_values,
            max_new_tokens=N,
            do_sample=False,
        )
    assert rest.tolist() == want.tolist()


# Prefixes.


def written(client: attnd.Client) -> int:
    return int(client.stats().tokens_written_total)


SYSTEM = [*range(1, 101)]


def test_a_second_prompt_computes_none_of_the_full_pages_again(client: attnd.Client) -> None:
    eager = llama(seed=21)
    ours = enable(copy.deepcopy(eager), client)
    first, second = [*SYSTEM, 7, 9], [*SYSTEM, 8, 5, 3]
    assert generate(ours, [first]).tolist() == generate(eager, [first]).tolist()
    before, matched = written(client), client.stats().prefix_tokens_matched_total
    # Another copy stands for another server: other objects, the same weights, its own session.
    other = enable(copy.deepcopy(eager), client)
    assert generate(other, [second]).tolist() == generate(eager, [second]).tolist()
    # 100 tokens of the system prompt fill 6 pages of 16; the last token made is never fed back.
    assert client.stats().prefix_tokens_matched_total - matched == 96
    assert written(client) - before == (len(second) - 96 + N - 1) * 2


def test_the_next_turn_of_a_chat_finds_the_answer_too(client: attnd.Client) -> None:
    eager = llama(seed=22)
    ours = enable(copy.deepcopy(eager), client)
    turn = generate(ours, [SYSTEM], max_new_tokens=40)[0].tolist()
    before = client.stats().prefix_tokens_matched_total
    again = [*turn, 4, 4]
    assert generate(ours, [again]).tolist() == generate(eager, [again]).tolist()
    # 139 tokens of the first turn were fed to the model.
    assert client.stats().prefix_tokens_matched_total - before == 139 // 16 * 16


def test_rows_of_different_matches_continue_at_one_column(client: attnd.Client) -> None:
    eager = llama(seed=23)
    ours = enable(copy.deepcopy(eager), client)
    generate(ours, [SYSTEM])
    prompts = [[*SYSTEM, 3], [*SYSTEM[:40], 9, 9], [*SYSTEM, *SYSTEM[:30]], [77]]
    assert generate(ours, prompts).tolist() == generate(eager, prompts).tolist()
    client.check_integrity()


def test_a_row_keeps_what_it_matched_beside_rows_that_match_less(client: attnd.Client) -> None:
    eager = llama(seed=29)
    ours = enable(copy.deepcopy(eager), client)
    prompts = [[*SYSTEM, 3], [*range(101, 120)]]
    generate(ours, [SYSTEM])
    before = written(client)
    assert generate(ours, prompts).tolist() == generate(eager, prompts).tolist()
    # The model computes all columns for the second row's sake; the first row's 96 stay.
    assert written(client) - before == (len(prompts[0]) - 96 + len(prompts[1]) + 2 * (N - 1)) * 2


def test_a_prompt_that_is_fed_in_chunks_begins_behind_its_match(client: attnd.Client) -> None:
    eager = llama(seed=30)
    ours = enable(copy.deepcopy(eager), client)
    prompt = [*SYSTEM, *range(60, 80)]
    generate(ours, [SYSTEM])
    before = written(client)
    want = generate(eager, [prompt]).tolist()
    assert generate(ours, [prompt], prefill_chunk_size=5).tolist() == want
    assert written(client) - before == (len(prompt) - 96 + N - 1) * 2


def test_beams_share_a_prefix_and_stay_right(client: attnd.Client) -> None:
    eager = llama(seed=24)
    ours = enable(copy.deepcopy(eager), client)
    flags = {"num_beams": 3, "num_return_sequences": 3}
    for prompt in ([*SYSTEM, 3], [*SYSTEM, 3, 5]):
        want = generate(eager, [prompt], **flags).tolist()
        assert generate(ours, [prompt], **flags).tolist() == want
    client.check_integrity()


def test_assisted_generation_publishes_and_stays_right(client: attnd.Client) -> None:
    eager = llama(seed=28)
    ours = enable(copy.deepcopy(eager), client)
    prompt = [*SYSTEM, *SYSTEM[:20]]
    want = generate(eager, [prompt]).tolist()
    assert generate(ours, [prompt], prompt_lookup_num_tokens=3).tolist() == want
    before = client.stats().prefix_tokens_matched_total
    assert generate(ours, [prompt]).tolist() == want
    assert client.stats().prefix_tokens_matched_total - before == 112
    assert generate(ours, [prompt], prompt_lookup_num_tokens=3).tolist() == want
    assert client.stats().prefix_tokens_matched_total - before == 224


def test_models_of_other_weights_share_nothing(client: attnd.Client) -> None:
    one, two = llama(seed=25), llama(seed=25)
    assert model_salt(one) == model_salt(two)
    with torch.no_grad():
        two.model.layers[0].self_attn.k_proj.weight += 1e-3
    assert model_salt(one) != model_salt(two)
    generate(enable(one, client), [SYSTEM])
    before = client.stats().prefix_tokens_matched_total
    generate(enable(two, client), [SYSTEM])
    assert client.stats().prefix_tokens_matched_total == before


def test_weights_that_were_trained_give_pages_other_names(client: attnd.Client) -> None:
    ours = enable(llama(seed=31), client)
    generate(ours, [SYSTEM])
    matched = client.stats().prefix_tokens_matched_total
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    eager = llama(seed=31)
    eager.load_state_dict(ours.state_dict())
    assert generate(ours, [SYSTEM]).tolist() == generate(eager, [SYSTEM]).tolist()
    assert client.stats().prefix_tokens_matched_total == matched
    # And a copy of the model is told from the model.
    copied = copy.deepcopy(ours)
    copied.load_state_dict(llama(seed=32).state_dict())
    assert generate(copied, [SYSTEM]).tolist() == generate(llama(seed=32), [SYSTEM]).tolist()
    assert client.stats().prefix_tokens_matched_total == matched


def test_keys_that_depend_on_the_length_are_not_shared(client: attnd.Client) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    eager = llama(seed=33, rope_parameters=rope, max_position_embeddings=32)
    ours = enable(copy.deepcopy(eager), client)
    queried = client.stats().prefix_tokens_queried_total
    for prompt in (SYSTEM[:20], SYSTEM):
        assert generate(ours, [prompt]).tolist() == generate(eager, [prompt]).tolist()
    assert client.stats().prefix_tokens_queried_total == queried


def test_a_model_without_reuse_publishes_nothing(client: attnd.Client) -> None:
    eager = llama(seed=26)
    queried = client.stats().prefix_tokens_queried_total
    generate(enable(eager, client, reuse_prefix=False), [SYSTEM])
    assert client.stats().prefix_tokens_queried_total == queried


# What does not fit.


def test_a_model_that_attends_otherwise_is_refused_the_cache(
    client: attnd.Client, session: attnd.Session
) -> None:
    eager = llama()
    cache = AttndCache.create(session, eager.config)
    with (
        torch.no_grad(),
        pytest.raises(attnd.InvalidArgument, match="keys of layer 0 did not come back"),
    ):
        eager(**padded([[1, 2, 3]]), past_key_values=cache)


def test_caches_of_other_kinds_are_refused(models: tuple[Any, Any]) -> None:
    with pytest.raises(attnd.InvalidArgument, match="cache_implementation: got 'static'"):
        generate(models[1], [[1, 2, 3]], cache_implementation="static")


def test_crop_wants_what_is_there(session: attnd.Session) -> None:
    cache = AttndCache.create(session, llama().config, batch_size=1)
    for wrong in (1, -1):
        with pytest.raises(attnd.InvalidArgument, match=f"tokens_to_remove: got {wrong}"):
            cache.crop(wrong)


def test_something_else_than_a_model_is_refused(client: attnd.Client) -> None:
    with pytest.raises(attnd.InvalidArgument, match="model: got a Linear"):
        enable(torch.nn.Linear(1, 1), client)


def test_a_daemon_that_lost_the_session_is_used_again(client: attnd.Client) -> None:
    eager = llama(seed=27)
    ours = enable(copy.deepcopy(eager), client)
    generate(ours, [[1, 2, 3]])
    ours.__dict__["_attnd_hook"]._session.close()
    assert generate(ours, [[1, 2, 3]]).tolist() == generate(eager, [[1, 2, 3]]).tolist()
