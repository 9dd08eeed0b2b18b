# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding, for `flash_attn_with_kvcache`."""

from __future__ import annotations

import torch

from attnd.errors import InvalidArgument


def apply_rotary(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    *,
    interleaved: bool,
) -> torch.Tensor:
    """Rotates the first 2 * cos.shape[1] dimensions of x; a new tensor of its dtype.

    Args:
        x: [B, S, H, D].
        cos, sin: [positions, rotary_dim / 2].
        positions: int64 [B, S].
        interleaved: pairs are dimensions 0 and 1, 2 and 3 (GPT-J); else the first and the second
            half of the rotary dimensions (GPT-NeoX).

    Computed in fp32 and rounded once. Source: Su et al., "RoFormer", 2021.
    """
    half = cos.shape[1]
    c, s = (table[positions].float()[:, :, None] for table in (cos, sin))  # [B, S, 1, half]
    turned, rest = x[..., : 2 * half].float(), x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., :half], turned[..., half:]
    pair = first * c - second * s, first * s + second * c
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return torch.cat([turned.to(x.dtype), rest], -1)


def check_rotary(cos: torch.Tensor, sin: torch.Tensor, head_dim: int, end: int) -> None:
    """The tables fit each other, the heads and the last position.

    Raises:
        InvalidArgument: they do not.
    """
    for name, table in (("rotary_cos", cos), ("rotary_sin", sin)):
        if not isinstance(table, torch.Tensor) or table.dim() != 2:
            got = list(table.shape) if isinstance(table, torch.Tensor) else type(table).__qualname__
            raise InvalidArgument(f"{name}: got {got}, expected a tensor [positions, rotary_dim/2]")
        if 2 * table.shape[1] > head_dim or table.shape[0] < end:
            raise InvalidArgument(
                f"{name}: got shape {list(table.shape)}, expected at least {end} positions and at "
                f"most {head_dim // 2} columns"
            )
    if cos.shape != sin.shape:
        raise InvalidArgument(
            f"rotary_sin: got shape {list(sin.shape)}, expected {list(cos.shape)} like rotary_cos"
        )
