# SPDX-License-Identifier: Apache-2.0
"""Greedy generation of one batch: with transformers' own attention, and with the daemon's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from attnd.demo.prompts import PROMPTS
from attnd.session import Session
from attnd.transformers import AttndCache, ResumedBatch, TokenJournal

CACHE_NAME = "smollm2-135m-demo"
OnToken = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """The prompts as the model's chat template puts them, padded on the left."""

    input_ids: torch.Tensor  # [B, longest prompt]
    attention_mask: torch.Tensor  # likewise, 0 in padding

    @property
    def prompt_lengths(self) -> list[int]:
        """In tokens, without padding."""
        lengths: list[int] = self.attention_mask.sum(dim=1).tolist()
        return lengths


class _EachToken(StoppingCriteria):  # type: ignore[misc]
    """Calls back with the number of tokens generated so far; stops nothing."""

    def __init__(self, on_token: OnToken, columns: int) -> None:
        self._on_token, self._columns = on_token, columns

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.Tensor:
        """Called by `generate` after every token."""
        self._on_token(input_ids.shape[1] - self._columns)
        return torch.zeros(len(input_ids), dtype=torch.bool)


def encode(tokenizer: Any, prompts: tuple[str, ...] = PROMPTS) -> Batch:
    """The prompts as one batch."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        for prompt in prompts
    ]
    inputs = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    return Batch(inputs["input_ids"], inputs["attention_mask"])


def generate(
    model: Any,
    batch: Batch,
    new_tokens: int,
    on_token: OnToken,
    *,
    cache: AttndCache | None = None,
    journal: TokenJournal | None = None,
) -> list[list[int]]:
    """`new_tokens` greedy tokens for each row; `on_token` hears how many there are after each.

    cache: None: transformers' own cache, for transformers' own attention.
    journal: writes the token ids down before `on_token` hears of them.
    """
    columns = batch.input_ids.shape[1]
    criteria = StoppingCriteriaList([_EachToken(on_token, columns)])
    if journal is not None:
        criteria.insert(0, journal)
    with torch.inference_mode():
        ids = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            past_key_values=cache,
            stopping_criteria=criteria,
            max_new_tokens=new_tokens,
            do_sample=False,
        )
    rows: list[list[int]] = ids[:, columns:].tolist()
    return rows


def generate_with_attnd(
    model: Any, batch: Batch, new_tokens: int, session: Session, on_token: OnToken
) -> tuple[list[list[int]], AttndCache]:
    """The same, with every attention call served by the daemon, and written down to be resumed."""
    cache = AttndCache.create(
        session, model.config, batch_size=len(batch.input_ids), name=CACHE_NAME
    )
    journal = TokenJournal(cache, batch.attention_mask, new_tokens=new_tokens)
    rows = generate(model, batch, new_tokens, on_token, cache=cache, journal=journal)
    return rows, cache


def finish(model: Any, resumed: ResumedBatch, on_token: OnToken) -> list[list[int]]:
    """Goes on with a batch that another client began; each row's whole answer."""
    lacking = [state.target_length - len(state.ids) for state in resumed.states]
    prompt_lengths = [state.prompt_length for state in resumed.states]
    done = [len(state.ids) - state.prompt_length for state in resumed.states]
    batch = Batch(resumed.input_ids, resumed.attention_mask)
    journal = TokenJournal(
        resumed.cache,
        resumed.attention_mask,
        prompt_lengths=prompt_lengths,
        new_tokens=resumed.states[0].target_length - prompt_lengths[0],
    )
    rows: list[list[int]] = [[] for _ in done]
    if max(lacking) > 0:
        rows = generate(
            model,
            batch,
            max(lacking),
            lambda count: on_token(min(done) + count),
            cache=resumed.cache,
            journal=journal,
        )
    # Rows that were a token ahead of the others have got one too many.
    return [
        (state.ids[state.prompt_length :] + row)[: state.target_length - state.prompt_length]
        for state, row in zip(resumed.states, rows, strict=True)
    ]
