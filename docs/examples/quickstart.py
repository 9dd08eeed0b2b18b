# SPDX-License-Identifier: Apache-2.0
"""Attention with a cache that the daemon keeps: five tokens of a prompt, then one more."""

import numpy as np

import attnd

client = attnd.connect()  # the daemon at $ATTND_ADDRESS, or one that this process starts
cache = client.open_cache("tiny", num_layers=1, num_query_heads=8, num_kv_heads=2, head_dim=64)

rng = np.random.default_rng(0)
with client.open_session() as session:
    sequence = session.create_sequence(cache)
    for start, rows in ((0, 5), (5, 1)):
        q, k, v = (rng.standard_normal((rows, heads, 64), np.float32) for heads in (8, 2, 2))
        item = attnd.Item(sequence=sequence, layer=0, start=start, q=q, k=k, v=v)
        result = session.attend([item])[0]
        print(result.layer_length, result.out.shape)
# -> 5 (5, 8, 64)
# -> 6 (1, 8, 64)
