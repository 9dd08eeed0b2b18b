# SPDX-License-Identifier: Apache-2.0
"""A transformers cache whose keys and values live in the daemon: one sequence per row of a batch.

It holds handles of sequences, their lengths and nothing else. One Attend per layer carries all rows
of the batch as ragged items, without their left padding. Two things about transformers that this
file is built around: the attention function does not get the cache, so `update` ties it to the keys
it returns; and `generate` asks the cache how many columns, padding included, it has seen.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from attnd.attention import Item
from attnd.client import KvCache
from attnd.errors import AttndError, InvalidArgument
from attnd.options import Options
from attnd.sequence import Sequence
from attnd.session import Session
from attnd.transformers.clock import AttentionClock
from attnd.transformers.forward import HANDOVER
from attnd.transformers.prefix import RowKeys


class AttndCache(Cache):  # type: ignore[misc]
    """Give it to a model with the attention implementation "attnd" as `past_key_values`.

    Args:
        session: that holds the sequences.
        kv_cache: of the daemon, of the model's geometry; see `create`.
        sequences: one per row; None: they are created when the first layer attends, as many as the
            batch then has rows.
        lengths: tokens that each row has already; None: 0.
        past_length: columns that the model has seen, padding counted.

    Attributes:
        session, kv_cache: as given.
        sequences: the handles, one per row.
        lengths: tokens of each row that every layer has, padding not counted.
        past_length: columns that the model has seen, padding counted.
        clock: time spent in attention.

    The sequences are freed by `free`, or when nothing refers to the cache any more.
    """

    def __init__(
        self,
        session: Session,
        kv_cache: KvCache,
        *,
        sequences: Seq[Sequence] | None = None,
        lengths: Seq[int] | None = None,
        past_length: int = 0,
    ) -> None:
        super().__init__(layers=[_Layer(self) for _ in range(kv_cache.geometry.num_layers)])
        self.session = session
        self.kv_cache = kv_cache
        # One list for life: whoever cleans up behind this object holds it too.
        self.sequences: list[Sequence] = list(sequences or ())
        self.lengths = list(lengths) if lengths is not None else [0] * len(self.sequences)
        if len(self.lengths) != len(self.sequences):
            raise InvalidArgument(
                f"lengths: got {len(self.lengths)}, expected {len(self.sequences)}, one a sequence"
            )
        self.past_length = past_length
        self.clock = AttentionClock()
        self._keys: list[RowKeys] = [RowKeys() for _ in self.sequences]
        self._new: list[int] = []
        self._handed_over: int | None = None
        weakref.finalize(self, _free_quietly, self.sequences).atexit = False

    @classmethod
    def create(
        cls,
        session: Session,
        config: PreTrainedConfig,
        *,
        batch_size: int | None = None,
        name: str | None = None,
        dtype: Any = torch.float32,
        page_size_tokens: int = 0,
    ) -> AttndCache:
        """Opens the daemon's cache for the model's geometry, and a sequence for each row.

        Args:
            config: of the model.
            batch_size: rows; None: as many as the first forward has.
            name: of the daemon's cache; None: made of the geometry, so that models of one shape
                share a cache.
            dtype: storage of keys and values.
            page_size_tokens: 0: the daemon's default.

        Raises as `Client.open_cache` does.
        """
        kv_cache = open_kv_cache(session, config, name, dtype, page_size_tokens)
        cache = cls(session, kv_cache)
        if batch_size is not None:
            cache._create_rows(batch_size)
        return cache

    def match_prefix(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        salt: bytes,
        *,
        publish_only: bool = False,
    ) -> int:
        """Begins the rows with the pages that others have published for the same tokens.

        The model then computes the columns that are left; what it computes is published as pages
        fill. Rows of different matches continue at the column where the first of them must.

        Args:
            input_ids: [B, columns] of the prompts, padded on the left.
            attention_mask: [B, columns], 1 for tokens; None: no padding.
            salt: names the model; see `prefix.model_salt`.
            publish_only: match nothing: for a loop that feeds the whole prompt whatever the cache
                has.

        Returns:
            How many columns need not be computed: `past_length` from now on.

        Raises:
            InvalidArgument: the cache has rows already.
        """
        if self.sequences:
            raise InvalidArgument(
                f"match_prefix: got a cache of {len(self.sequences)} rows, expected an empty one"
            )
        columns = input_ids.shape[1]
        page = self.kv_cache.geometry.page_size_tokens
        padding = [0] * len(input_ids)
        if attention_mask is not None:
            padding = (columns - attention_mask.sum(dim=1)).tolist()
        for row, pad in enumerate(padding):
            keys = RowKeys.of(input_ids[row, pad:].tolist(), page, salt)
            wanted: dict[str, Any] = {}
            if not publish_only:
                wanted = {"prefix_keys": keys.keys, "num_tokens": max(columns - pad, 1)}
            self.sequences.append(self.session.create_sequence(self.kv_cache, **wanted))
            self._keys.append(keys)
        matched = [sequence.matched_tokens for sequence in self.sequences]
        past = 0
        if not publish_only:
            past = min(pad + found for pad, found in zip(padding, matched, strict=True))
        self.lengths = [max(past - pad, 0) for pad in padding]
        for row, sequence in enumerate(self.sequences):
            self._keys[row].published = matched[row] // page
            if self.lengths[row] < matched[row]:
                # Other rows must compute these columns, and the model computes whole columns.
                sequence.truncate(self.lengths[row])
        self.past_length = past
        return past

    def publish(self, token_ids: Seq[Seq[int]], salt: bytes) -> None:
        """Names the rows' full pages, prompt and answer, for whoever comes with the same tokens.

        Args:
            token_ids: of each row, without padding; at least as many as the row has in the daemon.
        """
        page = self.kv_cache.geometry.page_size_tokens
        for row, ids in enumerate(token_ids):
            published = self._keys[row].published
            self._keys[row] = RowKeys.of(ids[: self.lengths[row]], page, salt)
            self._keys[row].published = published
        self._publish_full_pages()

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: Options,
    ) -> torch.Tensor:
        """One layer's attention for all rows: one Attend. As `forward.attention_forward` says."""
        begin_ns = time.perf_counter_ns()
        self._handed_over = None
        # [B, heads, n, dim] in transformers, [n, heads, dim] a row on the wire.
        q, k, v = (_host_view(tensor).swapaxes(1, 2) for tensor in (query, key, value))
        batch, width = q.shape[:2]
        if layer == 0:
            if not self.sequences:
                self._create_rows(batch)
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
            self.clock.count(results.timing)
        if layer == len(self.layers) - 1:
            self.lengths = [old + new for old, new in zip(self.lengths, self._new, strict=True)]
            self.past_length += width
            self._publish_full_pages()
        output: torch.Tensor = torch.from_numpy(out)
        if query.dtype == torch.bfloat16:
            output = output.view(torch.bfloat16)
        self.clock.wall_ns += time.perf_counter_ns() - begin_ns
        return output.to(query.device)

    def _create_rows(self, batch_size: int) -> None:
        for _ in range(batch_size):
            self.sequences.append(self.session.create_sequence(self.kv_cache))
            self.lengths.append(0)
            self._keys.append(RowKeys())

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

    def _publish_full_pages(self) -> None:
        page = self.kv_cache.geometry.page_size_tokens
        for sequence, length, row in zip(self.sequences, self.lengths, self._keys, strict=True):
            full = min(length // page, len(row.keys))
            if full > row.published:
                sequence.publish(row.keys[row.published : full], first_page=row.published)
                row.published = full

    # What transformers asks of a cache.

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps nothing; tells the attention function, by way of the keys, whose they are.

        Raises:
            InvalidArgument: the keys of the layer before were not attended by attnd.
        """
        if self._handed_over is not None:
            raise InvalidArgument(
                f"past_key_values: the keys of layer {self._handed_over} did not come back to "
                "attnd; expected a model after set_attn_implementation('attnd')"
            )
        self._handed_over = layer_idx
        setattr(key_states, HANDOVER, (self, layer_idx))
        return key_states, value_states

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Beam search: row i goes on from what row beam_idx[i] has. Forks, and frees the rest."""
        self._select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row becomes `repeats` rows beside one another."""
        self._select([row for row in range(len(self.sequences)) for _ in range(repeats)])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these rows."""
        self._select(indices.tolist())

    def _select(self, indices: list[int]) -> None:
        if not self.sequences:
            return
        old, taken, rows = list(self.sequences), set(), []
        for index in indices:
            rows.append(old[index].fork() if index in taken else old[index])
            taken.add(index)
        lengths = [self.lengths[index] for index in indices]
        keys = [self._keys[index].copy() for index in indices]
        self.sequences[:] = rows
        self.lengths, self._keys = lengths, keys
        for index, sequence in enumerate(old):
            if index not in taken:
                sequence.free()

    def crop(self, tokens_to_remove: int) -> None:
        """Assisted generation: takes the last columns back.

        Args:
            tokens_to_remove: minus the number of columns, as transformers 5 counts; at most 0.

        Raises:
            InvalidArgument: above 0, or more columns than there are.
        """
        if not -self.past_length <= tokens_to_remove <= 0:
            raise InvalidArgument(
                f"tokens_to_remove: got {tokens_to_remove}, expected {-self.past_length} to 0"
            )
        # A forward that failed in the middle wrote some layers; they too go back.
        self._handed_over = None
        if tokens_to_remove == 0:
            return
        self.past_length += tokens_to_remove
        page = self.kv_cache.geometry.page_size_tokens
        for row, sequence in enumerate(self.sequences):
            self.lengths[row] = max(self.lengths[row] + tokens_to_remove, 0)
            self._keys[row].published = min(self._keys[row].published, self.lengths[row] // page)
            sequence.truncate(self.lengths[row])

    def reset(self) -> None:
        """Empties the sequences."""
        for sequence in self.sequences:
            sequence.truncate(0)
        self.lengths = [0] * len(self.sequences)
        self._keys = [RowKeys() for _ in self.sequences]
        self.past_length = 0
        self._handed_over = None

    def free(self) -> None:
        """Frees the sequences; the cache begins anew with the next batch."""
        sequences = list(self.sequences)
        self.sequences.clear()
        self.lengths, self._keys, self.past_length = [], [], 0
        self._handed_over = None
        for sequence in sequences:
            sequence.free()


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """One layer of an AttndCache, as transformers wants to see it: keys and values are None."""

    is_sliding = False

    def __init__(self, cache: AttndCache) -> None:
        super().__init__()
        # The cache frees its sequences when nobody refers to it: its own layers do not count.
        self._cache = weakref.proxy(cache)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do."""

    def update(self, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Never called: AttndCache.update does not ask its layers."""
        raise NotImplementedError("use AttndCache.update")

    def get_seq_length(self) -> int:
        """Columns seen, padding counted."""
        return int(self._cache.past_length)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns of keys, offset of the first). Since transformers 5 the argument is a length."""
        return self._cache.past_length + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Never called: AttndCache.reorder_cache takes all layers at once."""
        raise NotImplementedError("use AttndCache.reorder_cache")

    def crop(self, tokens_to_remove: int) -> None:
        """Never called: AttndCache.crop takes all layers at once."""
        raise NotImplementedError("use AttndCache.crop")


def open_kv_cache(
    session: Session,
    config: PreTrainedConfig,
    name: str | None = None,
    dtype: Any = torch.float32,
    page_size_tokens: int = 0,
) -> KvCache:
    """The daemon's cache of the model's geometry. Arguments and errors as `AttndCache.create`."""
    config = config.get_text_config(decoder=True)
    query_heads = config.num_attention_heads
    geometry = {
        "num_layers": config.num_hidden_layers,
        "num_query_heads": query_heads,
        "num_kv_heads": getattr(config, "num_key_value_heads", None) or query_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // query_heads,
    }
    if name is None:
        shape = "x".join(map(str, geometry.values()))
        name = f"transformers-{shape}-{str(dtype).removeprefix('torch.')}-p{page_size_tokens or 16}"
    return session.client.open_cache(
        name, **geometry, dtype=dtype, page_size_tokens=page_size_tokens
    )


def _host_view(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The tensor as numpy, in place where it is on the CPU; bf16 as its bit patterns."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(
            "past_key_values: got an AttndCache with gradients on, expected torch.no_grad(), or no "
            "cache (use_cache=False): keys in the daemon have no gradients"
        )
    tensor = tensor.detach().cpu()
    array: npt.NDArray[Any] = (
        tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    ).numpy()
    return array


def _free_quietly(sequences: list[Sequence]) -> None:
    """Of a cache that is gone: the session's end frees what this does not."""
    for sequence in sequences:
        with contextlib.suppress(AttndError, ValueError):  # ValueError: the channel was closed.
            sequence.free()
