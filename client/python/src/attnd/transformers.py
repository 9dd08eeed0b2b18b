# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers on attnd: every attention call of every layer is the daemon's.

    attnd.transformers.register()
    model.set_attn_implementation("attnd")
    with client.open_session() as session:
        cache = AttndCache.create(session, model.config, batch_size=2)
        model.generate(**inputs, past_key_values=cache, do_sample=False)

The cache holds no keys and no values: handles of sequences, their lengths and nothing else. One
Attend per layer carries all rows of the batch as ragged items, without their left padding.

Three things about transformers that this file is built around: a mask function must be registered
beside the attention function, or the padding never reaches it; the attention function does not get
the cache, so `update` ties it to the keys it returns; and `generate` asks the cache how many
columns, padding included, it has seen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
    StoppingCriteria,
)
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import causal_mask_function

from attnd.attention import Item
from attnd.client import Client
from attnd.errors import InvalidArgument
from attnd.options import Options
from attnd.sequence import Sequence
from attnd.session import Session
from attnd.token_state import TokenState

_HANDOVER = "_attnd_handover"


def register(name: str = "attnd") -> None:
    """Makes `name` an attention implementation: `model.set_attn_implementation(name)`."""
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, padding_mask)


def padding_mask(
    *,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """The mask function: hands the 2-D padding mask on, bool [B, tokens seen + new], or None.

    Raises:
        NotImplementedError: the model wants more than a causal mask (a sliding window, packed or
            bidirectional sequences).
    """
    if mask_function is not causal_mask_function:
        raise NotImplementedError("attnd serves causal attention with padding; no other mask yet")
    return attention_mask


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function.

    Args:
        query: [B, Hq, n, Dk]. key: [B, Hkv, n, Dk] and value: [B, Hkv, n, Dv], the new ones only.
        attention_mask: bool [B, tokens seen + n], as `padding_mask` gave it.

    Returns:
        [B, n, Hq, Dv], zeros in rows of padding; and None for the weights, which nobody has.

    Raises:
        InvalidArgument: no AttndCache was given to the model, or the padding is not on the left.
        AttndError: whatever the daemon said.
    """
    handover = getattr(key, _HANDOVER, None)
    if handover is None:
        raise InvalidArgument(
            "past_key_values: got no AttndCache; expected one, since the keys live in the daemon"
        )
    if dropout or sliding_window is not None:
        raise NotImplementedError(
            f"dropout={dropout}, sliding_window={sliding_window}: not served through transformers"
        )
    cache, layer = handover
    options = _options(scaling, softcap or 0.0)
    return cache.attend(layer, query, key, value, attention_mask, options), None


def _host_view(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The tensor as numpy, in place where it is on the CPU; bf16 as its bit patterns."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument("attnd gives no gradients: call the model under torch.no_grad()")
    tensor = tensor.detach().cpu()
    array: npt.NDArray[Any] = (
        tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    ).numpy()
    return array


@lru_cache(maxsize=64)
def _options(scaling: float | None, softcap: float) -> Options:
    return Options(causal=True, softmax_scale=scaling, softcap=softcap)


@dataclass(slots=True)
class AttentionClock:
    """Where the time of all Attend calls went, in nanoseconds."""

    calls: int = 0
    wall_ns: int = 0  # in this process, from the tensors to the tensors
    stage_in_ns: int = 0  # inside the daemon, and the three after it
    queue_ns: int = 0
    kernel_ns: int = 0
    stage_out_ns: int = 0

    @property
    def daemon_ns(self) -> int:
        """Inside the daemon altogether."""
        return self.stage_in_ns + self.queue_ns + self.kernel_ns + self.stage_out_ns


class AttndCache(Cache):  # type: ignore[misc]
    """A cache whose keys and values live in the daemon; one sequence per row of the batch.

    Attributes:
        sequences: the handles, one per row.
        lengths: tokens of each row that every layer has, padding not counted.
        past_length: columns that the model has seen, padding counted.
        clock: time spent in attention.
    """

    def __init__(
        self, sequences: Seq[Sequence], *, lengths: Seq[int] | None = None, past_length: int = 0
    ) -> None:
        if not sequences:
            raise InvalidArgument("sequences: got none, expected one per row of the batch")
        num_layers = sequences[0].cache.geometry.num_layers
        super().__init__(layers=[_Layer(self) for _ in range(num_layers)])
        self.sequences = list(sequences)
        self.session = sequences[0].session
        self.lengths = list(lengths) if lengths is not None else [0] * len(self.sequences)
        self.past_length = past_length
        self.clock = AttentionClock()
        self._new: list[int] = []

    @classmethod
    def create(
        cls,
        session: Session,
        config: PreTrainedConfig,
        *,
        batch_size: int,
        name: str = "transformers",
        dtype: Any = torch.float32,
        page_size_tokens: int = 0,
    ) -> AttndCache:
        """Opens the daemon's cache `name` for the model's geometry, and a sequence for each row.

        Raises as `Client.open_cache` does.
        """
        config = config.get_text_config(decoder=True)
        head_dim = getattr(config, "head_dim", None)
        kv_cache = session.client.open_cache(
            name,
            num_layers=config.num_hidden_layers,
            num_query_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=head_dim or config.hidden_size // config.num_attention_heads,
            dtype=dtype,
            page_size_tokens=page_size_tokens,
        )
        return cls([session.create_sequence(kv_cache) for _ in range(batch_size)])

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: Options,
    ) -> torch.Tensor:
        """One layer's attention for all rows: one Attend. As `attention_forward` says."""
        begin_ns = time.perf_counter_ns()
        # [B, heads, n, dim] in transformers, [n, heads, dim] a row on the wire.
        q, k, v = (_host_view(tensor).swapaxes(1, 2) for tensor in (query, key, value))
        batch, width = q.shape[:2]
        if layer == 0:
            self._new = self._count_new(mask, batch, width)
        out = np.zeros((batch, width, q.shape[2], v.shape[3]), q.dtype)
        rows = [row for row in range(batch) if self._new[row]]
        items = []
        for row in rows:
            tail = slice(width - self._new[row], width)
            items.append(
                Item(
                    sequence=self.sequences[row],
                    layer=layer,
                    start=self.lengths[row],
                    q=q[row, tail],
                    k=k[row, tail],
                    v=v[row, tail],
                    options=options,
                )
            )
        if items:
            results = self.session.attend(items)
            for row, result in zip(rows, results, strict=True):
                out[row, width - self._new[row] :] = result.out
            self._count_time(results.timing)
        if layer == len(self.layers) - 1:
            self.lengths = [old + new for old, new in zip(self.lengths, self._new, strict=True)]
            self.past_length += width
        output: torch.Tensor = torch.from_numpy(out)
        if query.dtype == torch.bfloat16:
            output = output.view(torch.bfloat16)
        self.clock.wall_ns += time.perf_counter_ns() - begin_ns
        return output.to(query.device)

    def _count_new(self, mask: torch.Tensor | None, batch: int, width: int) -> list[int]:
        """How many of the last `width` columns are tokens that the daemon does not have yet."""
        if batch != len(self.sequences):
            raise InvalidArgument(
                f"batch: got {batch} rows, expected {len(self.sequences)}, one per sequence"
            )
        columns = self.past_length + width
        if mask is None:
            totals = [columns] * batch
        else:
            if tuple(mask.shape) != (batch, columns):
                raise InvalidArgument(
                    f"attention_mask: got shape {list(mask.shape)}, expected {[batch, columns]}"
                )
            if bool((mask[:, :-1] > mask[:, 1:]).any()):
                raise InvalidArgument(
                    "attention_mask: got padding behind tokens, expected it on the left "
                    '(tokenizer.padding_side = "left")'
                )
            totals = mask.sum(dim=1).tolist()
        new = [total - length for total, length in zip(totals, self.lengths, strict=True)]
        for row, count in enumerate(new):
            if not 0 <= count <= width:
                raise InvalidArgument(
                    f"attention_mask: row {row} has {totals[row]} tokens of which the daemon has "
                    f"{self.lengths[row]}; expected 0 to {width} new ones"
                )
        return new

    def _count_time(self, timing: Any) -> None:
        self.clock.calls += 1
        self.clock.stage_in_ns += timing.stage_in_ns
        self.clock.queue_ns += timing.queue_ns
        self.clock.kernel_ns += timing.kernel_ns
        self.clock.stage_out_ns += timing.stage_out_ns

    # What transformers asks of a cache.

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps nothing; tells the attention function, by way of the keys, whose they are."""
        setattr(key_states, _HANDOVER, (self, layer_idx))
        return key_states, value_states

    def reset(self) -> None:
        """Empties the sequences."""
        for sequence in self.sequences:
            sequence.truncate(0)
        self.lengths = [0] * len(self.sequences)
        self.past_length = 0

    def free(self) -> None:
        """Frees the sequences; the cache is of no use afterwards."""
        for sequence in self.sequences:
            sequence.free()


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of an AttndCache, as transformers wants to see it: keys and values are None."""

    is_sliding = False

    def __init__(self, cache: AttndCache) -> None:
        super().__init__()
        self._cache = cache
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do."""

    def update(self, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Never called: AttndCache.update does not ask its layers."""
        raise NotImplementedError("use AttndCache.update")

    def get_seq_length(self) -> int:
        """Columns seen, padding counted."""
        return self._cache.past_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns of keys, offset of the first). Since transformers 5 the argument is a length."""
        return self._cache.past_length + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Beam search forks sequences, which this cache does not do yet."""
        raise NotImplementedError("beam search is not served yet")

    def crop(self, tokens_to_remove: int) -> None:
        """Assisted generation truncates sequences, which this cache does not do yet."""
        raise NotImplementedError("assisted generation is not served yet")


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
    cache = AttndCache(sequences, lengths=restarts, past_length=columns - behind)
    ids = torch.full((len(states), columns), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, state in enumerate(states):
        ids[row, columns - len(state.ids) :] = torch.tensor(state.ids)
        mask[row, columns - len(state.ids) :] = 1
    return ResumedBatch(session, cache, states, ids, mask)


__all__ = [
    "AttentionClock",
    "AttndCache",
    "ResumedBatch",
    "TokenJournal",
    "attention_forward",
    "padding_mask",
    "register",
    "resume",
]
