# SPDX-License-Identifier: Apache-2.0
"""A transformers cache whose keys and values live in the daemon: one sequence per row of a batch.

It holds handles of sequences, their lengths and nothing else. One Attend per layer carries all rows
of the batch as ragged items, without their left padding. Two things about transformers that this
file is built around: the attention function does not get the cache, so `update` ties it to the keys
it returns; and `generate` asks the cache how many columns, padding included, it has seen.
"""

from __future__ import annotations

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
from attnd.client import Client, KvCache
from attnd.errors import InvalidArgument
from attnd.options import Options
from attnd.sequence import Sequence
from attnd.session import Session
from attnd.transformers import freeing
from attnd.transformers.clock import AttentionClock
from attnd.transformers.forward import HANDOVER
from attnd.transformers.prefix import RowKeys

# A window is a matter of the mask: the daemon keeps all keys of such a layer.
_LAYER_TYPES = {"full_attention", "sliding_attention"}


class AttndCache(Cache):  # type: ignore[misc]
    """Give it to a model with the attention implementation "attnd" as `past_key_values`.

    Args:
        session: that holds the sequences; or a client, for a session of the cache's own, which ends
            with it.
        kv_cache: of the daemon, of the model's geometry (`open_kv_cache`); or the model's config,
            to open one of the dtype that the first layer's keys have.
        sequences: one per row; None: they are created when the first layer attends, as many as the
            batch then has rows.
        lengths: tokens that each row has already; None: 0.
        past_length: columns that the model has seen, padding counted.

    Attributes:
        session: that holds the sequences.
        sequences: the handles, one per row.
        lengths: tokens of each row that every layer has, padding not counted.
        past_length: columns that the model has seen, padding counted.
        clock: time spent in attention.

    The sequences are freed by `free`, or when nothing refers to the cache any more (`freeing`).

    Raises:
        NotImplementedError: the config has layers that attnd does not serve; named.
        Unavailable: a client was given, and no daemon answers.
    """

    def __init__(
        self,
        session: Session | Client,
        kv_cache: KvCache | PreTrainedConfig,
        *,
        sequences: Seq[Sequence] | None = None,
        lengths: Seq[int] | None = None,
        past_length: int = 0,
    ) -> None:
        self._kv_cache: KvCache | None = None
        self._config: PreTrainedConfig | None = None
        if isinstance(kv_cache, KvCache):
            self._kv_cache, num_layers = kv_cache, kv_cache.geometry.num_layers
        else:
            self._config, num_layers = kv_cache, geometry_of(kv_cache)["num_layers"]
        super().__init__(layers=[_Layer(self) for _ in range(num_layers)])
        self._owner: object | None = None  # Of the session; shared with copies.
        if isinstance(session, Client):
            session = session.open_session(label="transformers")
            self._owner = _Owner(session)
        self.session = session
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
        freeing.when_gone(self, self.sequences)

    @property
    def kv_cache(self) -> KvCache:
        """Of the daemon; where a config was given, opened by whoever asks first."""
        return self._open()

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
            dtype: storage of keys and values; the model's, where others are to share its pages.
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
        whole_prompt: bool = False,
    ) -> int:
        """Begins the rows with the pages that others have published for the same tokens.

        The model then computes the columns that are left, and full pages are published as they
        fill. A row that matches further than others keeps its pages: in the columns that the model
        computes for the others' sake, its tokens are the daemon's already and are not attended.

        Args:
            input_ids: [B, columns] of the prompts, padded on the left.
            attention_mask: [B, columns], 1 for tokens; None: no padding.
            salt: names the model; see `prefix.model_salt`.
            whole_prompt: for a loop that feeds all columns whatever the cache has: no column is
                said to be done, and still nothing that matches is attended again.

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
        past = columns
        for row, pad in enumerate(padding):
            keys = RowKeys.of(input_ids[row, pad:].tolist(), page, salt)
            sequence = self.session.create_sequence(
                self.kv_cache, prefix_keys=keys.keys, num_tokens=max(columns - pad, 1)
            )
            keys.published = sequence.matched_tokens // page
            self.sequences.append(sequence)
            self.lengths.append(sequence.matched_tokens)
            self._keys.append(keys)
            # The last column gives the logits, in rows without a token too.
            past = min(past, pad + sequence.matched_tokens, columns - 1)
        self.past_length = 0 if whole_prompt else past
        return self.past_length

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
                self._open(query.dtype)
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

    def _open(self, dtype: Any = None) -> KvCache:
        if self._kv_cache is None:
            dtype = dtype or getattr(self._config, "dtype", None) or torch.float32
            self._kv_cache = open_kv_cache(self.session, self._config, dtype=dtype)
        return self._kv_cache

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

    def fork(self) -> AttndCache:
        """Another cache that begins with what this one has; the pages are shared until written to.

        copy.deepcopy does the same: to go on from one prompt in several ways.
        """
        forks = [
            sequence.fork(length)
            for sequence, length in zip(self.sequences, self.lengths, strict=True)
        ]
        shape = self._kv_cache or self._config
        assert shape is not None
        copied = AttndCache(
            self.session,
            shape,
            sequences=forks,
            lengths=self.lengths,
            past_length=self.past_length,
        )
        copied._keys = [keys.copy() for keys in self._keys]
        copied._owner = self._owner
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> AttndCache:
        return self.fork()

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


class _Owner:
    """Closes a cache's own session when the cache and all its copies are gone."""

    def __init__(self, session: Session) -> None:
        freeing.when_gone(self, [session])


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
    geometry = geometry_of(config)
    if name is None:
        shape = "x".join(map(str, geometry.values()))
        name = f"transformers-{shape}-{str(dtype).removeprefix('torch.')}-p{page_size_tokens or 16}"
    return session.client.open_cache(
        name, **geometry, dtype=dtype, page_size_tokens=page_size_tokens
    )


def geometry_of(config: PreTrainedConfig) -> dict[str, int]:
    """The numbers of layers and heads, and the head dimension, as `Client.open_cache` names them.

    Raises:
        NotImplementedError: some layers keep something else than keys and values of their own.
    """
    config = config.get_text_config(decoder=True)
    others = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if others:
        raise NotImplementedError(
            f"layer_types: got {sorted(others)}, expected {sorted(_LAYER_TYPES)} with an AttndCache"
        )
    if shared := getattr(config, "num_kv_shared_layers", None):
        raise NotImplementedError(
            f"num_kv_shared_layers: got {shared}, expected 0: each layer of an AttndCache has keys "
            "of its own"
        )
    query_heads = config.num_attention_heads
    return {
        "num_layers": config.num_hidden_layers,
        "num_query_heads": query_heads,
        "num_kv_heads": getattr(config, "num_key_value_heads", None) or query_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // query_heads,
    }


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
