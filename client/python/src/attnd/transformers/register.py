# SPDX-License-Identifier: Apache-2.0
"""The name "attnd" among transformers' attention implementations."""

from __future__ import annotations

from transformers import AttentionInterface, AttentionMaskInterface

from attnd.transformers.forward import attention_forward
from attnd.transformers.masks import attention_mask_for


def register(name: str = "attnd") -> None:
    """Makes `name` an attention implementation: `model.set_attn_implementation(name)`.

    The mask function is registered beside the attention function: without one, transformers would
    hand no padding over.
    """
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, attention_mask_for)
