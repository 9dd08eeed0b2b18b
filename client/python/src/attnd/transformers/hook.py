# SPDX-License-Identifier: Apache-2.0
"""One call that makes a model's attention, and the cache of its `generate`, the daemon's.

attnd.transformers.enable(model)
model.generate(**inputs, max_new_tokens=64)
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Hashable
from typing import Any, TypeVar

import torch

import attnd
from attnd.client import Client
from attnd.errors import Aborted, DataLoss, InvalidArgument, NotFound, SessionLost
from attnd.session import Session
from attnd.transformers.cache import AttndCache, open_kv_cache
from attnd.transformers.forward import serve_by
from attnd.transformers.prefix import keys_depend_on_length, model_salt, weights_mark
from attnd.transformers.register import register

_Model = TypeVar("_Model", bound=torch.nn.Module)
_HOOK = "_attnd_hook"

# What a daemon says of a session that it does not have any more.
_LOST = (NotFound, SessionLost, Aborted, DataLoss)

# With these alone the keys depend on nothing but the token ids and the model.
_TEXT_ONLY = {"inputs", "input_ids", "attention_mask"}
# The rows of these modes end as they began; beams change places.
_SKIPS_WHAT_IS_CACHED = {"greedy_search", "sample", "beam_search", "beam_sample"}
_KEEPS_ROWS = {"greedy_search", "sample", "assisted_generation"}


def enable(model: _Model, client: Client | None = None, *, reuse_prefix: bool = True) -> _Model:
    """Serves the model's attention with attnd: forward, training and `generate`.

    `generate` uses an AttndCache unless it is given another cache or use_cache=False. Called again
    for the same model, it takes the new arguments.

    Args:
        model: any model of transformers whose attention goes through its AttentionInterface.
        client: of the daemon; None: `attnd.connect()`.
        reuse_prefix: take the pages of prompts that begin like others of the same model and tenant,
            whichever process computed them, and publish this one's. The names of pages are made of
            the weights, too, as they are at each `generate`. Not done for models whose keys depend
            on the text's length (rope of type "dynamic" or "longrope").

    Returns:
        `model`.

    Raises:
        NotImplementedError: an encoder-decoder model, whose cross-attention has a cache of its own.
        InvalidArgument: not a model of transformers.
    """
    if not hasattr(model, "set_attn_implementation"):
        raise InvalidArgument(
            f"model: got a {type(model).__name__}, expected a model of transformers"
        )
    inner: Any = model
    if inner.config.is_encoder_decoder:
        raise NotImplementedError(
            f"model: got {type(model).__name__}, an encoder-decoder; expected a decoder or encoder"
        )
    register()
    inner.set_attn_implementation("attnd")
    client = client or attnd.connect()
    serve_by(model, client)
    if hasattr(model, "generate"):
        # The class's own methods, also where a former call has put others before them.
        model.__dict__.pop("generate", None)
        model.__dict__.pop("_prepare_cache_for_generation", None)
        hook = _GenerateHook(model, client, reuse_prefix)
        model.__dict__["generate"] = functools.partial(hook.generate, inner.generate)
        model.__dict__["_prepare_cache_for_generation"] = functools.partial(
            hook.prepare_cache, inner._prepare_cache_for_generation
        )
        model.__dict__[_HOOK] = hook
    return model


class _Call(threading.local):
    """What one `generate` of a thread was given, for the cache that it asks for in the middle."""

    ids: torch.Tensor | None = None
    cache: AttndCache | None = None
    keeps_rows: bool = False
    salt: bytes = b""


class _GenerateHook:
    """Stands before a model's `generate` and the making of its cache."""

    def __init__(self, model: Any, client: Client, reuse_prefix: bool) -> None:
        self._client = client
        self._reuse_prefix = reuse_prefix and not keys_depend_on_length(model.config)
        # Of each model that this hook stands before (copies share it): the salt, and for which
        # weights it was made.
        self._salts: weakref.WeakKeyDictionary[Any, tuple[Hashable, bytes]] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._call = _Call()

    def __deepcopy__(self, memo: dict[int, Any]) -> _GenerateHook:
        # A copied model keeps serving by the same daemon; the copied methods are the original's.
        return self

    def generate(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """`model.generate`, with the cache freed and its pages published at the end."""
        call = self._call
        # An assistant may be this very model: its generate runs inside this one.
        outer = (call.ids, call.cache, call.keeps_rows, call.salt)
        call.ids = _text_ids(args, kwargs) if self._reuse_prefix else None
        call.cache = None
        # Of the weights as they are now: they may have been trained, or loaded anew.
        call.salt = b"" if call.ids is None else self._salt(original.__self__)
        try:
            result = original(*args, **kwargs)
            sequences = result if isinstance(result, torch.Tensor) else result.sequences
            if call.cache is not None:
                self._publish(call.cache, sequences)
                if getattr(result, "past_key_values", None) is not call.cache:
                    call.cache.free()
            return result
        finally:
            call.ids, call.cache, call.keeps_rows, call.salt = outer

    def prepare_cache(
        self,
        original: Any,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """`model._prepare_cache_for_generation`: an AttndCache where none was given."""
        implementation = generation_config.cache_implementation
        if model_kwargs.get("past_key_values") is not None or not generation_config.use_cache:
            original(generation_config, model_kwargs, generation_mode, batch_size, max_cache_length)
            return
        if implementation not in (None, "dynamic", "hybrid"):
            raise InvalidArgument(
                f"cache_implementation: got {implementation!r}, expected None: the cache is attnd's"
            )
        call, session = self._call, self._open_session()
        model = original.__self__
        cache = AttndCache(session, open_kv_cache(session, model.config, dtype=model.dtype))
        model_kwargs["past_key_values"] = call.cache = cache
        call.keeps_rows = str(generation_mode.value) in _KEEPS_ROWS
        if call.ids is not None:
            copies = max(generation_config.num_beams, generation_config.num_return_sequences)
            ids = call.ids.repeat_interleave(copies, dim=0)
            # Assisted generation feeds the whole prompt at its start, whatever the cache has.
            whole = str(generation_mode.value) not in _SKIPS_WHAT_IS_CACHED
            mask = model_kwargs.get("attention_mask")
            cache.match_prefix(ids, mask, call.salt, whole_prompt=whole)

    def _publish(self, cache: AttndCache, sequences: torch.Tensor) -> None:
        if self._call.ids is None or not self._call.keeps_rows:
            return
        if len(cache.sequences) == len(sequences):
            # Of the columns seen, those that are no tokens of the row are its padding.
            ids = [
                row[cache.past_length - length :]
                for row, length in zip(sequences.tolist(), cache.lengths, strict=True)
            ]
            cache.publish(ids, self._call.salt)

    def _salt(self, model: Any) -> bytes:
        mark = weights_mark(model)
        known = self._salts.get(model)
        if known is None or known[0] != mark:
            self._salts[model] = known = mark, model_salt(model)
        return known[1]

    def _open_session(self) -> Session:
        """The model's session; a new one where the daemon lost it, since no text has begun yet."""
        with self._lock:
            if self._session is not None:
                try:
                    self._session.renew()
                except _LOST:
                    self._session = None
            if self._session is None:
                self._session = self._client.open_session(label="transformers")
            return self._session


def _text_ids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The prompt's ids [B, columns] where the keys depend on nothing else; None otherwise."""
    tensors = {name for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
    ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    if tensors - _TEXT_ONLY or not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        return None
    return ids if ids.shape[1] > 0 and not ids.is_floating_point() else None
