# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a caller's own cache: where the rows of a sequence are."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import torch

from attnd.errors import InvalidArgument
from flash_attention_amd.arguments import check_tensor


def check_block_table(value: Any, batch: int) -> torch.Tensor:
    """int32 [batch, max_blocks].

    Raises:
        InvalidArgument: another dtype or shape.
    """
    if not isinstance(value, torch.Tensor) or value.dtype not in (torch.int32, torch.int64):
        got = value.dtype if isinstance(value, torch.Tensor) else type(value).__qualname__
        raise InvalidArgument(f"block_table: got {got}, expected a torch.int32 tensor")
    if value.dim() != 2 or value.shape[0] != batch:
        raise InvalidArgument(
            f"block_table: got shape {list(value.shape)}, expected [{batch}, max_blocks]"
        )
    return value


def page_rows(
    block_table: torch.Tensor, item: int, begin: int, end: int, num_blocks: int, page_size: int
) -> torch.Tensor:
    """Rows of the flattened pages that hold positions [begin, end) of one sequence, int64.

    Raises:
        InvalidArgument: the table has too few pages, or names one that there is not.
    """
    if end > block_table.shape[1] * page_size:
        raise InvalidArgument(
            f"block_table: got {block_table.shape[1]} pages of {page_size} tokens for sequence "
            f"{item}, expected room for {end} tokens"
        )
    positions = torch.arange(begin, end, device=block_table.device)
    pages = block_table[item, positions // page_size].to(torch.int64)
    if len(pages) and not 0 <= int(pages.min()) <= int(pages.max()) < num_blocks:
        raise InvalidArgument(
            f"block_table: got pages {int(pages.min())} to {int(pages.max())} for sequence {item}, "
            f"expected 0 to {num_blocks - 1}"
        )
    return pages * page_size + positions % page_size


def gather_pages(
    name: str, pages: torch.Tensor, block_table: Any, lengths: Seq[int]
) -> torch.Tensor:
    """[total, H, D] from pages [num_blocks, page_block_size, H, D]: a differentiable copy."""
    check_tensor(name, pages, rank=4)
    table = check_block_table(block_table, len(lengths)).to(pages.device)
    num_blocks, page_size = pages.shape[:2]
    rows = [
        page_rows(table, item, 0, length, num_blocks, page_size)
        for item, length in enumerate(lengths)
    ]
    return pages.flatten(0, 1)[torch.cat(rows)]
