# SPDX-License-Identifier: Apache-2.0
"""Attention over a cache in the caller's own tensors: FlashAttention's `flash_attn_with_kvcache`.

Every call sends the keys and values that it attends to the daemon. A cache that stays in the
daemon sends the new ones alone: `attnd.Session`, and `attnd.transformers` for models.
"""

from __future__ import annotations

from typing import Any

import torch

import attnd
from attnd.errors import InvalidArgument
from attnd.options import integer
from flash_attention_amd.arguments import check_tensor, int_list, make_options
from flash_attention_amd.functional import attend
from flash_attention_amd.paged import check_block_table, page_rows
from flash_attention_amd.rotary import apply_rotary, check_rotary


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor | None = None,
    v: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    cache_seqlens: int | torch.Tensor | None = None,
    cache_batch_idx: torch.Tensor | None = None,
    cache_leftpad: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: torch.Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    client: attnd.Client | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Writes k and v into the cache in place, at cache_seqlens, then attends q over the cache.

    Args:
        q: [B, Sq, Hq, D]; f32, f16 or bf16, any device and strides.
        k_cache, v_cache: [B_cache, S_cache, Hkv, D], or pages [num_blocks, page_block_size, Hkv, D]
            with block_table. q's dtype and device. Pages may have any size.
        k, v: [B, S_new, Hkv, D], both or neither: written at cache_seqlens to
            cache_seqlens + S_new. They need cache_seqlens, and distinct rows of the cache.
        rotary_cos, rotary_sin: [positions, rotary_dim / 2], with k and v alone: k is rotated by its
            positions, q too where causal or windowed, else by cache_seqlens throughout.
        cache_seqlens: tokens in the cache before this call, int or int32 [B]; None: all of it.
        cache_batch_idx: int32 [B]: the row of the cache of each batch entry; None: its own.
        cache_leftpad: int32 [B]: the first key of each sequence; not with block_table.
        block_table: int32 [B, max_blocks]: the pages of each sequence in order.
        softmax_scale, causal, window_size, softcap, alibi_slopes, client: as of `flash_attn_func`.
        rotary_interleaved: see `rotary.apply_rotary`.
        num_splits: at least 0; without effect: the daemon splits by geometry alone.
        return_softmax_lse: also return the log-sum-exp, f32 [B, Hq, Sq].

    No gradients: under torch.enable_grad a tensor that requires one is an error.

    Returns:
        [B, Sq, Hq, D]; or (out, lse). A query that sees no key gives zeros and -inf.

    Raises:
        As `flash_attn_func`. Where an argument is refused the cache is as it was.
    """
    options = make_options(
        causal=causal, softmax_scale=softmax_scale, window_size=window_size, softcap=softcap
    )
    integer("num_splits", num_splits)
    check_tensor("q", q, rank=4)
    if 0 in q.shape:
        raise InvalidArgument(f"q: got shape {list(q.shape)}, expected no size below 1")
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_tensor(name, tensor, q, rank=4)
    _check_gradients(q=q, k_cache=k_cache, v_cache=v_cache, k=k, v=v)
    batch, rows, heads, dim = q.shape
    if k_cache.shape[2] == 0 or heads % k_cache.shape[2] or k_cache.shape[3] != dim:
        raise InvalidArgument(
            f"k_cache: got shape {list(k_cache.shape)}, expected head_dim {dim} and a number of "
            f"heads that divides q's {heads}"
        )
    if v_cache.shape[:3] != k_cache.shape[:3]:
        raise InvalidArgument(
            f"v_cache: got shape {list(v_cache.shape)}, expected {[*k_cache.shape[:3], 'D']} like "
            "k_cache"
        )
    places = _Places(k_cache, batch, cache_batch_idx, block_table)
    before = places.lengths(cache_seqlens)
    added = _check_new(k, v, q, k_cache, v_cache, cache_seqlens)
    ends = [length + added for length in before]
    begins = _leftpad(cache_leftpad, batch, ends, block_table)
    where = [places.rows(b, begins[b], ends[b]) for b in range(batch)]
    if rotary_cos is not None or rotary_sin is not None:
        if k is None:
            raise InvalidArgument("rotary_cos: got a tensor without k and v, expected None")
        local = causal or tuple(window_size) != (-1, -1)
        last = max(before) + max(added, rows if local else 1)
        check_rotary(rotary_cos, rotary_sin, dim, last)  # type: ignore[arg-type]
        start = torch.tensor(before, device=q.device)[:, None]
        steps = torch.arange(max(rows, added), device=q.device)
        tables = rotary_cos.to(q.device), rotary_sin.to(q.device)  # type: ignore[union-attr]
        q_at = start + (steps[:rows] if local else torch.zeros_like(steps[:rows]))
        q = apply_rotary(q, *tables, q_at, interleaved=rotary_interleaved)
        k = apply_rotary(k, *tables, start + steps[:added], interleaved=rotary_interleaved)
    if k is not None and v is not None:
        places.write(k_cache, k, before, ends)
        places.write(v_cache, v, before, ends)
    out, lse = attend(
        q.flatten(0, 1),
        places.read(k_cache, where),
        places.read(v_cache, where),
        options=options,
        alibi_slopes=alibi_slopes,
        cu_seqlens_q=[b * rows for b in range(batch + 1)],
        cu_seqlens_k=_cuts([len(part) for part in where]),
        client=client,
    )
    out = out.view(batch, rows, heads, v_cache.shape[3])
    if not return_softmax_lse:
        return out
    return out, lse.view(heads, batch, rows).transpose(0, 1).contiguous()


class _Places:
    """Where the rows of each sequence are, in a cache of rows or of pages."""

    def __init__(self, cache: torch.Tensor, batch: int, batch_idx: Any, block_table: Any) -> None:
        self._batch = batch
        self._device = cache.device
        self._blocks, self._block_size = cache.shape[:2]
        self._table: torch.Tensor | None = None
        self._rows_of = list(range(batch))
        if block_table is not None:
            if batch_idx is not None:
                raise InvalidArgument("cache_batch_idx: got one with block_table, expected None")
            self._table = check_block_table(block_table, batch).to(cache.device)
            self._capacity = self._table.shape[1] * self._block_size
            return
        self._capacity = self._block_size
        if batch_idx is not None:
            self._rows_of = int_list("cache_batch_idx", batch_idx)
        if len(self._rows_of) != batch or not all(0 <= r < self._blocks for r in self._rows_of):
            what = "cache_batch_idx" if batch_idx is not None else "k_cache"
            raise InvalidArgument(
                f"{what}: got rows {self._rows_of} of a cache of {self._blocks}, expected {batch}, "
                "one for each batch entry"
            )

    def lengths(self, cache_seqlens: Any) -> list[int]:
        """Tokens of each sequence before the call."""
        if cache_seqlens is None:
            return [self._capacity] * self._batch
        if isinstance(cache_seqlens, int):
            lengths = [integer("cache_seqlens", cache_seqlens)] * self._batch
        else:
            lengths = int_list("cache_seqlens", cache_seqlens)
        if len(lengths) != self._batch:
            raise InvalidArgument(
                f"cache_seqlens: got {len(lengths)} entries, expected {self._batch}"
            )
        for length in lengths:
            if not 0 <= length <= self._capacity:
                raise InvalidArgument(
                    f"cache_seqlens: got {length}, expected 0 to {self._capacity}, the cache's size"
                )
        return lengths

    def rows(self, item: int, begin: int, end: int) -> torch.Tensor:
        """Rows of the flattened cache for positions [begin, end), int64."""
        if self._table is not None:
            return page_rows(self._table, item, begin, end, self._blocks, self._block_size)
        if end > self._capacity:
            raise InvalidArgument(
                f"cache_seqlens: got {end} tokens for sequence {item} with the new ones, expected "
                f"at most {self._capacity}, the cache's size"
            )
        first = self._rows_of[item] * self._block_size
        return torch.arange(first + begin, first + end, device=self._device)

    def write(
        self, cache: torch.Tensor, new: torch.Tensor, before: list[int], ends: list[int]
    ) -> None:
        """Puts [B, S_new, H, D] at [before, ends) of each sequence, in place, any strides."""
        where = [self.rows(b, before[b], ends[b]) for b in range(self._batch)]
        flat = torch.cat(where)
        cache.index_put_((flat // self._block_size, flat % self._block_size), new.flatten(0, 1))

    def read(self, cache: torch.Tensor, where: list[torch.Tensor]) -> torch.Tensor:
        """[total, H, D], a copy."""
        flat = torch.cat(where)
        return cache[flat // self._block_size, flat % self._block_size]


def _check_new(
    k: Any, v: Any, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, seqlens: Any
) -> int:
    """How many tokens each sequence gets."""
    if k is None and v is None:
        return 0
    for name, tensor, cache in (("k", k, k_cache), ("v", v, v_cache)):
        if tensor is None:
            raise InvalidArgument(f"{name}: got None, expected both k and v or neither")
        check_tensor(name, tensor, q, rank=4)
        expected = [q.shape[0], k.shape[1], *cache.shape[2:]]
        if list(tensor.shape) != expected:
            raise InvalidArgument(f"{name}: got shape {list(tensor.shape)}, expected {expected}")
    if seqlens is None:
        raise InvalidArgument("cache_seqlens: got None with k and v, expected where they go")
    return int(k.shape[1])


def _leftpad(value: Any, batch: int, ends: list[int], block_table: Any) -> list[int]:
    if value is None:
        return [0] * batch
    if block_table is not None:
        raise InvalidArgument("cache_leftpad: got one with block_table, expected None")
    begins = int_list("cache_leftpad", value)
    if len(begins) != batch or not all(0 <= a <= b for a, b in zip(begins, ends, strict=True)):
        raise InvalidArgument(
            f"cache_leftpad: got {begins}, expected {batch} entries of 0 to the sequence's length"
        )
    return begins


def _check_gradients(**named: torch.Tensor | None) -> None:
    for name, tensor in named.items():
        if tensor is not None and tensor.requires_grad and torch.is_grad_enabled():
            raise InvalidArgument(
                f"{name}: requires a gradient, which flash_attn_with_kvcache does not give; "
                "expected torch.no_grad(), or a tensor that was detached"
            )


def _cuts(lengths: list[int]) -> list[int]:
    cuts = [0]
    for length in lengths:
        cuts.append(cuts[-1] + length)
    return cuts
