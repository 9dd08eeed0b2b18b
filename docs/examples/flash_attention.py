# SPDX-License-Identifier: Apache-2.0
"""The guide's first call, and its module in a model that trains."""

import torch

from flash_attention_amd import FlashAttention, flash_attn_func

q, k, v = (torch.randn(2, 128, 8, 64) for _ in range(3))  # [batch, tokens, heads, head_dim]
out = flash_attn_func(q, k, v, causal=True)
print(tuple(out.shape))
# -> (2, 128, 8, 64)

attention = FlashAttention(attention_dropout=0.1)
project = torch.nn.Linear(64, 64)
loss = attention(project(q), k, v, causal=True).square().mean()
loss.backward()
print(tuple(project.weight.grad.shape))
# -> (64, 64)
