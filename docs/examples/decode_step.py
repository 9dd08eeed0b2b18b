# SPDX-License-Identifier: Apache-2.0
"""What a model server does with attnd: prompt, decode, speculate, branch, crash, go on."""

import numpy as np

import attnd

LAYERS, Q_HEADS, KV_HEADS, HEAD_DIM, PAGE = 2, 4, 2, 32, 16
rng = np.random.default_rng(0)


def project(rows: int) -> dict[str, np.ndarray]:
    """Stands for a layer's three projections of the hidden state of `rows` tokens."""
    heads = {"q": Q_HEADS, "k": KV_HEADS, "v": KV_HEADS}
    return {x: rng.standard_normal((rows, n, HEAD_DIM), np.float32) for x, n in heads.items()}


client = attnd.connect()
cache = client.open_cache(
    "walk",
    num_layers=LAYERS,
    num_query_heads=Q_HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    page_size_tokens=PAGE,
)
session = client.open_session(label="walk", lease_s=60)


# [step]
def forward(batch: list[tuple[attnd.Sequence, int, int]]) -> None:
    """One pass of the model: `rows` new tokens of each sequence, from position `start`."""
    for layer in range(LAYERS):
        items = [
            attnd.Item(sequence=sequence, layer=layer, start=start, **project(rows))
            for sequence, start, rows in batch
        ]
        outputs = [result.out for result in session.attend(items)]
        assert [len(out) for out in outputs] == [rows for _, _, rows in batch]


prompt, chat = session.create_sequence(cache), session.create_sequence(cache)
forward([(prompt, 0, 40), (chat, 0, 7)])  # two prompts in one ragged batch
forward([(prompt, 40, 1), (chat, 7, 1)])  # one token each
print(prompt.describe().layer_lengths, chat.describe().layer_lengths)
# -> [41, 41] [8, 8]
# [step end]

# [speculate]
forward([(chat, 8, 5)])  # five drafted tokens are written and attended at once
chat.truncate(8 + 2)  # the model agreed with two of them
forward([(chat, 10, 1)])
print(chat.describe().layer_lengths)
# -> [11, 11]
# [speculate end]

# [beams]
beams = [prompt.fork() for _ in range(4)]  # no copy: the pages are shared
forward([(beam, 41, 1) for beam in beams])
best, *others = beams
for beam in others:
    beam.free()
print(best.describe().layer_lengths, prompt.describe().layer_lengths)
# -> [42, 42] [41, 41]
# [beams end]

# [prefix]
token_ids = list(range(40))
keys = attnd.prefix.page_keys(token_ids, PAGE, salt=b"model revision")
print(len(keys), prompt.publish(keys))  # 40 tokens have two full pages of 16
# -> 2 2
same = session.create_sequence(cache, prefix_keys=keys, num_tokens=len(token_ids))
forward([(same, same.matched_tokens, len(token_ids) - same.matched_tokens)])
print(same.matched_tokens, same.describe().layer_lengths)
# -> 32 [40, 40]
# [prefix end]

# [resume]
chat.set_client_state(b"the token ids so far, the sampler's state")
token = session.release()  # or the process is killed, having stored the token before

session = client.resume_session(token, lease_s=60)
taken = next(sequence for sequence in session.sequences if sequence.client_state)
print(taken.length, taken.client_state)
# -> 11 b"the token ids so far, the sampler's state"
forward([(taken, taken.length, 1)])
session.close()
# [resume end]
