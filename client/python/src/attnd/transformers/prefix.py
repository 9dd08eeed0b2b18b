# SPDX-License-Identifier: Apache-2.0
"""Content keys of a row, and the salt that keeps models apart."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import torch

from attnd.prefix import page_keys

# Of each weight: enough that two fine-tunes of one model differ, little enough to read in no time.
_SAMPLED = 64

_ROTATIONS_BY_LENGTH = {"dynamic", "longrope"}


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

    SHA-256 over its class, its configuration (rope, layer types and all), its active adapters and,
    of each parameter and buffer, name, dtype, shape and up to 64 elements spread evenly over it.
    Two models with one salt would have to agree in all of these.
    """
    digest = hashlib.sha256(f"{type(model).__module__}.{type(model).__qualname__}".encode())
    config = model.config.to_diff_dict()
    # Where it lies and how it attends changes no key.
    for name in ("_name_or_path", "transformers_version", "_attn_implementation", "dtype"):
        config.pop(name, None)
    digest.update(repr(sorted(config.items(), key=lambda pair: pair[0])).encode())
    digest.update(_adapters(model).encode())
    for name, tensor in _state(model):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().flatten()
        if len(flat):
            at = torch.linspace(0, len(flat) - 1, min(_SAMPLED, len(flat)), dtype=torch.float64)
            sample = flat[at.long().to(flat.device)].contiguous().cpu()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.digest()


def weights_mark(model: Any) -> Hashable:
    """Is another one after the weights were written to, in place or not; costs no look at them."""
    marks = [
        (tensor.data_ptr(), None if tensor.is_inference() else tensor._version)
        for _, tensor in _state(model)
    ]
    return _adapters(model), tuple(marks)


def keys_depend_on_length(config: Any) -> bool:
    """Whether the rotation of a token's key depends on how long the text around it is.

    Pages of such a model cannot be shared: they hold the keys of a text of another length.
    """
    found, parts = [], [getattr(config.get_text_config(decoder=True), "rope_parameters", None)]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):  # One for all layers, or one for each type of layer.
            found.append(part.get("rope_type"))
            parts.extend(part.values())
    return not _ROTATIONS_BY_LENGTH.isdisjoint(found)


def _state(model: Any) -> list[tuple[str, torch.Tensor]]:
    state = [*model.named_parameters(), *model.named_buffers()]
    return sorted(state, key=lambda pair: pair[0])


def _adapters(model: Any) -> str:
    loaded = getattr(model, "_hf_peft_config_loaded", False)
    return str(model.active_adapters()) if loaded else ""
