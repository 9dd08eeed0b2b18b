# SPDX-License-Identifier: Apache-2.0
"""Content keys of a row, and the salt that keeps models apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import torch

from attnd.prefix import page_keys

# Of each weight: enough that two fine-tunes of one model differ, little enough to read in no time.
_SAMPLED = 64


@dataclass(slots=True)
class RowKeys:
    """The content keys of a row's full pages, and how many of them are published."""

    keys: list[bytes] = field(default_factory=list)
    published: int = 0

    @classmethod
    def of(cls, token_ids: Seq[int], page_size_tokens: int, salt: bytes) -> RowKeys:
        """The keys of these tokens, none published."""
        return cls(page_keys(token_ids, page_size_tokens, salt))

    def copy(self) -> RowKeys:
        """For a fork, which shares the pages."""
        return RowKeys(self.keys, self.published)


def model_salt(model: Any) -> bytes:
    """What a model's keys and values depend on besides the tokens: 32 bytes.

    SHA-256 over its class, its configuration (rope, layer types and all) and, of each parameter and
    buffer, name, dtype, shape and up to 64 elements spread evenly over it. Two models with one salt
    would have to agree in all of these.
    """
    digest = hashlib.sha256(f"{type(model).__module__}.{type(model).__qualname__}".encode())
    config = model.config.to_diff_dict()
    # Where it lies and how it attends changes no key.
    for name in ("_name_or_path", "transformers_version", "_attn_implementation", "dtype"):
        config.pop(name, None)
    digest.update(repr(sorted(config.items(), key=lambda pair: pair[0])).encode())
    state = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in sorted(state, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().flatten()
        if len(flat):
            at = torch.linspace(0, len(flat) - 1, min(_SAMPLED, len(flat)), dtype=torch.float64)
            sample = flat[at.long().to(flat.device)].contiguous().cpu()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.digest()
