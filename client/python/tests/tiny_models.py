# SPDX-License-Identifier: Apache-2.0
"""Random models of two layers, of the families whose attention differs; and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

PROMPTS = [[11, 7, 2, 90], [5], [8, 8, 40, 41, 42, 43, 44, 99, 3], [1, 2, 3, 4, 5, 6]]

_COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "attn_implementation": "eager",
}


def llama(seed: int = 11, **fields: Any) -> Any:
    """Grouped heads, causal."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(_COMMON | fields))).eval()


def mistral() -> Any:
    """A sliding window of 4 tokens in every layer."""
    torch.manual_seed(12)
    return MistralForCausalLM(MistralConfig(**_COMMON, sliding_window=4)).eval()


def gemma2() -> Any:
    """Softcapped scores, a scale of its own, and a window of 4 tokens in every other layer."""
    torch.manual_seed(13)
    config = Gemma2Config(
        **_COMMON, sliding_window=4, attn_logit_softcapping=0.5, query_pre_attn_scalar=8
    )
    return Gemma2ForCausalLM(config).eval()


def gpt_oss() -> Any:
    """Attention sinks, and a window of 4 tokens in every other layer."""
    torch.manual_seed(14)
    config = GptOssConfig(**_COMMON, sliding_window=4, num_local_experts=2, num_experts_per_tok=1)
    model = GptOssForCausalLM(config).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    return model


FAMILIES = {"llama": llama, "mistral": mistral, "gemma2": gemma2, "gpt_oss": gpt_oss}


def padded(prompts: list[list[int]], side: str = "left") -> dict[str, torch.Tensor]:
    """input_ids and attention_mask, both [B, longest]."""
    columns = max(map(len, prompts))
    ids, mask = [], []
    for prompt in prompts:
        pad = [0] * (columns - len(prompt))
        ids.append(pad + prompt if side == "left" else prompt + pad)
        ones = [1] * len(prompt)
        mask.append(pad + ones if side == "left" else ones + pad)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative L2."""
    difference = torch.linalg.norm((ours - theirs).double())
    return float(difference / torch.linalg.norm(theirs.double()))
