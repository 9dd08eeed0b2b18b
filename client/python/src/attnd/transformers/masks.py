# SPDX-License-Identifier: Apache-2.0
"""Which keys a query sees, as transformers says it, and as the daemon wants to hear it.

transformers describes a mask by a function of indices, made of a few known parts. Nothing of size
[queries, keys] is ever built here: the parts are recognized, and the padding stays what it was, one
truth value a column. A mask that is made of other parts is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

_KIND = "_attnd_kind"


@dataclass(frozen=True, slots=True)
class MaskKind:
    """What a mask says besides the padding.

    Attributes:
        causal: key j is seen by the query at position p only where j <= p.
        window: how many keys are seen, the query's own one included; causal: p - window < j,
            otherwise |p - j| <= window; None: all.
        packed: integers [B, S]: tokens see those of their own number only; None: one text a row.
    """

    causal: bool
    window: int | None = None
    packed: torch.Tensor | None = None


def kind_of(mask_function: Callable[..., Any]) -> MaskKind:
    """Takes a mask function of transformers apart.

    Raises:
        NotImplementedError: it has a part that attnd does not serve; names it.
    """
    causal = bidirectional = False
    window: int | None = None
    packed: torch.Tensor | None = None
    parts = [mask_function]
    while parts:
        part = parts.pop()
        name = part.__qualname__.split(".")[0]
        inside = inspect.getclosurevars(part).nonlocals
        if part is causal_mask_function:
            causal = True
        elif part is bidirectional_mask_function:
            bidirectional = True
        elif name == "and_masks":
            parts.extend(inside["mask_functions"])
        elif name in ("sliding_window_overlay", "sliding_window_bidirectional_overlay"):
            window = int(inside["sliding_window"])
        elif name == "packed_sequence_mask_function":
            packed = inside["packed_sequence_mask"]
        elif name == "remap_positions_for_packed_sequence":
            parts.append(inside["mask_function"])
        else:
            raise NotImplementedError(
                f"attention mask: got one with {part.__qualname__}, expected causal or "
                "bidirectional masks with padding, sliding windows or packed sequences"
            )
    if causal == bidirectional:
        raise NotImplementedError(
            f"attention mask: got {mask_function.__qualname__}, which is neither causal nor "
            "bidirectional"
        )
    return MaskKind(causal, window, packed)


def attention_mask_for(
    *,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    batch_size: int = 1,
    q_length: int = 0,
    kv_length: int = 0,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    device: torch.device | None = None,
    **_: Any,
) -> torch.Tensor:
    """The mask function that `register` registers: the padding, with the `MaskKind` tied to it.

    Args:
        q_length, q_offset: columns of the queries, and where the first of them is.
        kv_length, kv_offset: likewise of the keys, as the cache counts: one of a fixed size also
            counts those that are not written yet, one of a window begins behind the first column.

    Returns:
        bool [B, columns of keys that are written], True for tokens.

    Raises:
        NotImplementedError: see `kind_of`; or the 2-D mask was replaced by one of another rank.
    """
    if attention_mask is not None and tied_kind(attention_mask) is not None:
        return attention_mask  # `generate` makes it ahead of the model for caches of a fixed size.
    kind = kind_of(mask_function)
    columns = kv_length
    if kind.causal:  # Otherwise, of a cross-attention, the keys are another text's.
        columns = min(kv_length, int(q_offset) + q_length - kv_offset)
    if attention_mask is None:
        mask = torch.ones((batch_size, columns), dtype=torch.bool, device=device)
    elif attention_mask.ndim != 2:
        raise NotImplementedError(
            f"attention_mask: got shape {list(attention_mask.shape)}, expected [B, columns]"
        )
    else:
        # A tensor of our own: the kind must not appear on the caller's. Contiguous, since
        # `generate` would otherwise make a copy that is, without the kind.
        mask = attention_mask.to(dtype=torch.bool)[:, kv_offset : kv_offset + columns].contiguous()
    setattr(mask, _KIND, kind)
    return mask


def tied_kind(mask: torch.Tensor | None) -> MaskKind | None:
    """What `attention_mask_for` tied to its mask; None where something else made it."""
    return getattr(mask, _KIND, None)
