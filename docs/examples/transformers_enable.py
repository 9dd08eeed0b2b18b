# SPDX-License-Identifier: Apache-2.0
"""A model of transformers served by attnd. A small one with random weights, to need no download."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import attnd.transformers

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
model = LlamaForCausalLM(config).eval()
ids = torch.randint(3, 256, (2, 24))
arguments = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
expected = model.generate(ids, **arguments)

# [enable]
model = attnd.transformers.enable(model)  # a daemon at $ATTND_ADDRESS, or one of this process
tokens = model.generate(ids, **arguments)
# [enable end]
print(torch.equal(tokens, expected))
# -> True

# [cache]
with attnd.connect().open_session() as session:
    cache = attnd.transformers.AttndCache.create(session, model.config)
    tokens = model.generate(ids, past_key_values=cache, **arguments)
    print(torch.equal(tokens, expected), cache.lengths)
# -> True [31, 31]
# [cache end]
