# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers on attnd: every attention call of every layer is the daemon's.

    model = attnd.transformers.enable(model)
    model.generate(**inputs)

or, with a cache in one's own hands:

    attnd.transformers.register()
    model.set_attn_implementation("attnd")
    cache = AttndCache(client, model.config)
    model.generate(**inputs, past_key_values=cache, do_sample=False)
"""

from attnd.transformers.cache import AttndCache, open_kv_cache
from attnd.transformers.clock import AttentionClock
from attnd.transformers.forward import attention_forward
from attnd.transformers.freeing import wait_until_freed
from attnd.transformers.hook import enable
from attnd.transformers.journal import ResumedBatch, TokenJournal, resume
from attnd.transformers.masks import MaskKind, attention_mask_for
from attnd.transformers.prefix import model_salt
from attnd.transformers.register import register

__all__ = [
    "AttentionClock",
    "AttndCache",
    "MaskKind",
    "ResumedBatch",
    "TokenJournal",
    "attention_forward",
    "attention_mask_for",
    "enable",
    "model_salt",
    "open_kv_cache",
    "register",
    "resume",
    "wait_until_freed",
]
