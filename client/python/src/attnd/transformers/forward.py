# SPDX-License-Identifier: Apache-2.0
"""The attention function of transformers models: through the cache's sequences, or stateless.

With an AttndCache the keys and values are the daemon's, and a layer is one Attend. Without one (an
encoder, training, a cache of transformers' own) the layer is one stateless call over the tokens
without their padding, and gradients flow through it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from attnd.client import Client
from attnd.errors import InvalidArgument
from attnd.options import Dropout, Options
from attnd.transformers.masks import MaskKind, tied_kind

if TYPE_CHECKING:
    from attnd.transformers.cache import AttndCache

HANDOVER = "_attnd_handover"

_SERVED_BY = "_attnd_served_by"

# Arguments of some models' attention that change the scores in ways the daemon does not know.
_UNKNOWN = ("position_bias", "head_mask", "attention_bias", "block_sequence_ids")


@dataclass(frozen=True, slots=True)
class _ServedBy:
    """Which daemon a module's stateless calls go to; a copied module keeps its daemon."""

    client: Client

    def __deepcopy__(self, memo: dict[int, Any]) -> _ServedBy:
        return self


def serve_by(model: torch.nn.Module, client: Client) -> None:
    """Sends the stateless calls of all modules of `model` to `client`'s daemon.

    Those of other modules go to the process's own, `attnd.connect()`.
    """
    for module in model.modules():
        module.__dict__[_SERVED_BY] = _ServedBy(client)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that `register` registers.

    Args:
        query: [B, Hq, n, Dk]. key: [B, Hkv, N, Dk] and value: [B, Hkv, N, Dv]; with an AttndCache
            the n new ones only.
        attention_mask: bool [B, columns], as `masks.attention_mask_for` gave it.
        scaling: of the scores; None: 1 / sqrt(Dk).
        dropout: of the probabilities, [0, 1); without an AttndCache only.
        softcap: see `Options`. Source: Gemma Team, "Gemma 2", 2024.
        sliding_window: keys seen, the query's own one included, where the mask does not say.
        s_aux: [Hq] logits that join the denominator. Source: OpenAI, "gpt-oss model card", 2025.
        is_causal: where the mask does not say; None: as the module says.

    Returns:
        [B, n, Hq, Dv], zeros in rows of padding where the mask is causal or a window; and None for
        the weights, which nobody has.

    Raises:
        InvalidArgument: padding behind tokens with an AttndCache, a mask of another rank, ...
        NotImplementedError: an argument that changes the scores and is not served.
        AttndError: whatever the daemon said.
    """
    for name in _UNKNOWN:
        if others.get(name) is not None:
            raise NotImplementedError(f"{name}: attnd does not serve attention with it")
    kind = tied_kind(attention_mask)
    if kind is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        kind = MaskKind(bool(causal), sliding_window)
    sinks = None if s_aux is None else tuple(s_aux.detach().float().flatten().tolist())
    handover = getattr(key, HANDOVER, None)
    if handover is not None:
        cache: AttndCache
        cache, layer = handover
        if dropout:
            raise NotImplementedError(f"dropout={dropout}: not served with an AttndCache")
        if not kind.causal or kind.packed is not None:
            raise NotImplementedError(
                f"attention mask: got {kind}, expected a causal one with an AttndCache"
            )
        options = _options(scaling, softcap or 0.0, True, kind.window, sinks)
        return cache.attend(layer, query, key, value, attention_mask, options), None
    options = _options(scaling, softcap or 0.0, kind.causal, kind.window, sinks)
    if dropout:
        seed = int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))
        options = replace(options, dropout=Dropout(probability=dropout, seed=seed))
    if attention_mask is not None and tied_kind(attention_mask) is not None:
        # A cache of a fixed size has room behind its tokens, which is not attended.
        written = attention_mask.shape[1]
        key, value = key[:, :, :written], value[:, :, :written]
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    served_by: _ServedBy | None = getattr(module, _SERVED_BY, None)
    client = None if served_by is None else served_by.client
    attend = functools.partial(_attend, s_aux, client)
    return _stateless(q, k, v, attention_mask, kind, options, attend), None


def _attend(
    s_aux: torch.Tensor | None, client: Client | None, *qkv: torch.Tensor, **arguments: Any
) -> torch.Tensor:
    """The differentiable operator; its output alone, also differentiated for `s_aux`."""
    from flash_attention_amd.autograd import attention

    if s_aux is None or not (s_aux.requires_grad and torch.is_grad_enabled()):
        return attention(*qkv, client=client, **arguments)[0]
    # A sink takes exp(s) / (exp(s) + exp(lse)) of every row's weight, and PyTorch knows the
    # gradients of the rest: those of lse are the operator's.
    arguments["options"] = replace(arguments["options"], sinks=None)
    out, lse = attention(*qkv, client=client, **arguments)
    kept = torch.sigmoid(lse - s_aux.float()[:, None])
    return out * kept.transpose(-1, -2).unsqueeze(-1).to(out.dtype)


def _stateless(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    kind: MaskKind,
    options: Options,
    attend: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """[B, n, Hq, Dk], [B, N, Hkv, Dk] and [B, N, Hkv, Dv] become [B, n, Hq, Dv]."""
    batch, n, columns = q.shape[0], q.shape[1], k.shape[1]
    if mask is not None and tuple(mask.shape) != (batch, columns):
        raise InvalidArgument(
            f"attention_mask: got shape {list(mask.shape)}, expected {[batch, columns]}, True for "
            "tokens; a mask of scores is not served"
        )
    if kind.packed is None and (mask is None or bool(mask.all())):
        return attend(q, k, v, options=options)
    if kind.packed is not None:
        if n != columns:
            raise NotImplementedError(f"packed sequences: got {n} queries and {columns} keys")
        keys = queries = torch.ones((batch, n), dtype=torch.bool, device=q.device)
        counts = _lengths_of_packed(kind.packed.expand(batch, n))
        query_counts, key_counts = counts, counts
    else:
        assert mask is not None
        if kind.window is not None and _has_holes(mask):
            raise NotImplementedError(
                "attention_mask: got padding between tokens with a sliding window, expected it on "
                "one side: the distance of two tokens is counted in columns there"
            )
        keys = mask
        # Where a position counts, the queries are the last columns. Otherwise they may be another
        # text's (cross-attention), and padding among them does no harm.
        same = kind.causal or kind.window is not None
        queries = mask[:, columns - n :] if same else torch.ones_like(mask[:, :1]).expand(batch, n)
        query_counts, key_counts = queries.sum(dim=1).tolist(), keys.sum(dim=1).tolist()
    if not sum(query_counts) or not sum(key_counts):
        return q.new_zeros((batch, n, q.shape[2], v.shape[3]))
    ragged = attend(
        q[queries],
        k[keys],
        v[keys],
        options=options,
        cu_seqlens_q=_cumulated(query_counts),
        cu_seqlens_k=_cumulated(key_counts),
    )
    out = ragged.new_zeros((batch, n, *ragged.shape[1:]))
    return out.index_put((queries,), ragged)


def _lengths_of_packed(packed: torch.Tensor) -> list[int]:
    """How many tokens each text has, row after row; [B, S] integers that change where one ends."""
    starts = torch.ones_like(packed, dtype=torch.bool)
    starts[:, 1:] = packed[:, 1:] != packed[:, :-1]
    begin = starts.flatten().nonzero().flatten().tolist()
    return [end - at for at, end in zip(begin, [*begin[1:], packed.numel()], strict=True)]


def _has_holes(mask: torch.Tensor) -> bool:
    """Whether a row's tokens are not in one piece."""
    edges = (mask[:, 1:] != mask[:, :-1]).sum(dim=1) + mask[:, 0] + mask[:, -1]
    return bool((edges > 2).any())


def _cumulated(counts: list[int]) -> list[int]:
    total = [0]
    for count in counts:
        total.append(total[-1] + count)
    return total


@functools.lru_cache(maxsize=256)
def _options(
    scaling: float | None,
    softcap: float,
    causal: bool,
    window: int | None,
    sinks: tuple[float, ...] | None,
) -> Options:
    left = right = None
    if window is not None:
        # Causal: j > p - window. Otherwise |p - j| <= window, on both sides.
        left, right = (window - 1, None) if causal else (window, window)
    return Options(
        causal=causal,
        softmax_scale=scaling,
        softcap=softcap,
        window_left=left,
        window_right=right,
        sinks=sinks,
    )
