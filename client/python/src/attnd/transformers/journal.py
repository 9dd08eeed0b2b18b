# SPDX-License-Identifier: Apache-2.0
"""Token ids written down with the sequences, so that another client finishes the text.

journal = TokenJournal(cache, inputs["attention_mask"], new_tokens=64)
model.generate(**inputs, past_key_values=cache, stopping_criteria=[journal], max_new_tokens=64)
...                                      # the process dies; another one has the token
resumed = resume(client, token)
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from attnd.client import Client
from attnd.errors import InvalidArgument
from attnd.session import Session
from attnd.token_state import TokenState
from attnd.transformers.cache import AttndCache


class TokenJournal(StoppingCriteria):  # type: ignore[misc]
    """Writes each row's token ids into its sequence's client_state after every token.

    Give it to `generate` in `stopping_criteria`; it never stops anything. A token that a killed
    client had computed but not written down is computed again by the next one; the keys and values
    of all tokens before it are in the daemon.

    Args:
        cache: the rows' sequences.
        attention_mask: of the prompt, [B, prompt columns], with left padding.
        prompt_lengths: in tokens; None: as the mask says.
        new_tokens: that each row is to get, written down for whoever goes on; 0: not known.
        eos_token_id: ends a row; what `generate` pads behind it is not written.
    """

    def __init__(
        self,
        cache: AttndCache,
        attention_mask: torch.Tensor,
        *,
        prompt_lengths: Seq[int] | None = None,
        new_tokens: int = 0,
        eos_token_id: int | None = None,
    ) -> None:
        self._sequences = cache.sequences
        tokens = attention_mask.sum(dim=1).tolist()
        self._padding = [attention_mask.shape[1] - count for count in tokens]
        self._prompt_lengths = list(prompt_lengths) if prompt_lengths is not None else tokens
        self._new_tokens = new_tokens
        self._eos = eos_token_id
        self._written = [0] * len(tokens)

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any
    ) -> torch.Tensor:
        """Called by `generate` after every token, with input_ids [B, columns]."""
        for row, ids in enumerate(input_ids.tolist()):
            ids = ids[self._padding[row] :]
            prompt_length = self._prompt_lengths[row]
            if self._eos in ids[prompt_length:]:
                ids = ids[: ids.index(self._eos, prompt_length) + 1]
            if len(ids) != self._written[row]:
                target = prompt_length + self._new_tokens if self._new_tokens else 0
                state = TokenState(row, prompt_length, target, ids)
                self._sequences[row].set_client_state(state.encode())
                self._written[row] = len(ids)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@dataclass(frozen=True, slots=True)
class ResumedBatch:
    """A batch that another client began, ready for `generate`.

    Attributes:
        session: with a token of its own from now on.
        cache: over the sequences, in the order of the batch's rows.
        states: the rows' token ids so far.
        input_ids, attention_mask: [B, longest row], padded on the left.
    """

    session: Session
    cache: AttndCache
    states: list[TokenState]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @property
    def recomputed(self) -> list[int]:
        """For each row, how many of its tokens go through the model again: at least the last."""
        return [
            len(state.ids) - length
            for state, length in zip(self.states, self.cache.lengths, strict=True)
        ]


def resume(client: Client, token: bytes, *, pad_token_id: int = 0) -> ResumedBatch:
    """Takes up a batch that was written down by a TokenJournal, with nothing but its token.

    Each row restarts at the shortest of its layers, and not behind its last token, whose logits
    nobody has kept.

    Raises:
        NotFound: the token is unknown, void or expired.
        InvalidArgument: a sequence of the session carries no token ids.
    """
    session = client.resume_session(token)
    if not session.sequences:
        raise InvalidArgument("token: its session holds no sequences, expected at least one")
    pairs = [(TokenState.decode(sequence.client_state), sequence) for sequence in session.sequences]
    pairs.sort(key=lambda pair: pair[0].row)
    states = [state for state, _ in pairs]
    sequences = [sequence for _, sequence in pairs]
    restarts = [
        min(sequence.length, len(state.ids) - 1)
        for state, sequence in zip(states, sequences, strict=True)
    ]
    columns = max(len(state.ids) for state in states)
    behind = max(len(state.ids) - at for state, at in zip(states, restarts, strict=True))
    cache = AttndCache(
        session,
        sequences[0].cache,
        sequences=sequences,
        lengths=restarts,
        past_length=columns - behind,
    )
    ids = torch.full((len(states), columns), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, state in enumerate(states):
        ids[row, columns - len(state.ids) :] = torch.tensor(state.ids)
        mask[row, columns - len(state.ids) :] = 1
    return ResumedBatch(session, cache, states, ids, mask)
