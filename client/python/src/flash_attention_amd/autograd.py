# SPDX-License-Identifier: Apache-2.0
"""Attention as a differentiable operator of PyTorch: forward in the daemon, backward here.

    out, lse = attention(q, k, v, options=attnd.Options(causal=True))

Two operators, `attnd::attention` and `attnd::attention_backward`, so that torch.compile takes both
as they are. The gradient of a gradient is not there, and asking for it is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence as Seq
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

import attnd
from attnd.errors import Unimplemented
from flash_attention_amd.arguments import check_cu_seqlens, check_options, check_tensors
from flash_attention_amd.backward import Scores, attention_backward

_U64 = 1 << 64
# Clients by their id; 0 stands for the process-wide one. An operator takes numbers and tensors.
_clients: weakref.WeakValueDictionary[int, attnd.Client] = weakref.WeakValueDictionary()


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    options: attnd.Options,
    cu_seqlens_q: Seq[int] | None = None,
    cu_seqlens_k: Seq[int] | None = None,
    client: attnd.Client | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T) v in the daemon, with gradients for q, k and v.

    Args:
        q: [B, Sq, Hq, Dk]; ragged: [total_q, Hq, Dk]. f32, f16 or bf16, of any device and strides.
        k: [B, Sk, Hkv, Dk]; ragged: [total_k, Hkv, Dk]. q's dtype and device; Hkv divides Hq.
        v: [B, Sk, Hkv, Dv]; ragged: [total_k, Hkv, Dv]. Likewise.
        options: mask, scores and dropout; no tree mask. `return_lse` is of no account.
        cu_seqlens_q, cu_seqlens_k: B + 1 integers each: make the call ragged.
        client: of the daemon; None: `attnd.connect()`.

    A batch that is too large for one message is sent in parts, which changes no bit. Under
    torch.autocast k and v are cast to q's dtype.

    Returns:
        out, of q's shape with Dv in the last place, q's dtype and device; and lse, the natural
        log-sum-exp of each row's scores, f32 [B, Hq, Sq] or [Hq, total_q]. Gradients go through
        both.

    Raises:
        InvalidArgument, TypeError: an argument does not fit; names it.
        Unimplemented: no kernel for this combination, or the gradient of a gradient.
        Unavailable: no daemon.

    Source: Dao, "FlashAttention-2", 2023.
    """
    tensors = all(isinstance(x, torch.Tensor) for x in (q, k, v))
    if tensors and torch.is_autocast_enabled(q.device.type):
        k, v = k.to(q.dtype), v.to(q.dtype)
    check_tensors(q, k, v, ragged=cu_seqlens_q is not None)
    check_options(options, q)
    cu_q = cu_k = None
    if cu_seqlens_q is not None or cu_seqlens_k is not None:
        cu_q, cu_k = check_cu_seqlens(q, k, cu_seqlens_q, cu_seqlens_k)
    handle = 0
    if client is not None:
        handle = id(client)
        _clients[handle] = client
    seed, probability, subsequence = None, 0.0, 0
    if options.dropout is not None and options.dropout.probability > 0:
        probability, subsequence = options.dropout.probability, options.dropout.subsequence
        seed = seed_tensor(options.dropout.seed)
    # The operator costs the import of torch's compiler, over a second, at its first call: where
    # nothing is traced or differentiated, its function does.
    plain = type(q) is type(k) is type(v) is torch.Tensor and not torch.compiler.is_compiling()
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    function = _compute if plain and not gradient else _forward
    return function(
        q,
        k,
        v,
        seed,
        _vector(options.alibi_slopes),
        _vector(options.sinks),
        cu_q,
        cu_k,
        options.causal,
        options.softmax_scale if options.softmax_scale is not None else q.shape[-1] ** -0.5,
        options.window_left,
        options.window_right,
        options.softcap,
        probability,
        subsequence,
        handle,
    )


def seed_tensor(seed: int | torch.Tensor) -> torch.Tensor:
    """A dropout seed as the operator takes it: int64 [1] on the CPU, the 64 bits as they are."""
    if isinstance(seed, torch.Tensor):
        return seed
    return torch.tensor([seed - _U64 if seed >= _U64 // 2 else seed], dtype=torch.int64)


def _vector(value: Any) -> torch.Tensor | None:
    if value is None or isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(value, dtype=torch.float32)


def _dropout(
    seed: torch.Tensor | None, probability: float, subsequence: int
) -> attnd.Dropout | None:
    if seed is None:
        return None
    return attnd.Dropout(
        probability=probability, seed=int(seed.item()) % _U64, subsequence=subsequence
    )


def _compute(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seed: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
    cu_seqlens_q: list[int] | None,
    cu_seqlens_k: list[int] | None,
    causal: bool,
    softmax_scale: float,
    window_left: int | None,
    window_right: int | None,
    softcap: float,
    dropout_p: float,
    subsequence: int,
    client: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    options = attnd.Options(
        causal=causal,
        softmax_scale=softmax_scale,
        window_left=window_left,
        window_right=window_right,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        sinks=sinks,
        dropout=_dropout(seed, dropout_p, subsequence),
        return_lse=True,
    )
    server = _clients[client] if client else attnd.connect()
    return _in_parts(server, q, k, v, cu_seqlens_q, cu_seqlens_k, options)


_forward = torch.library.custom_op("attnd::attention", _compute, mutates_args=())


@_forward.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs(q, v)


def _outputs(q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unfilled; out [..., Sq, Hq, Dv], lse [..., Hq, Sq]."""
    *batch, rows, heads, _ = q.shape
    out = q.new_empty((*batch, rows, heads, v.shape[-1]))
    return out, q.new_empty((*batch, heads, rows), dtype=torch.float32)


def _in_parts(
    client: attnd.Client,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: list[int] | None,
    cu_k: list[int] | None,
    options: attnd.Options,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One request, or several of as many sequences as a message takes."""
    if cu_q is None or cu_k is None:
        cuts_q = [b * q.shape[1] for b in range(len(q) + 1)]
        cuts_k = [b * k.shape[1] for b in range(len(k) + 1)]
    else:
        cuts_q, cuts_k = cu_q, cu_k
    results = []
    for first, last in _parts(client, q, k, v, cuts_q, cuts_k):
        if cu_q is None or cu_k is None:
            rows = keys = slice(first, last)
            part_q = part_k = None
        else:
            rows, keys = slice(cu_q[first], cu_q[last]), slice(cu_k[first], cu_k[last])
            part_q = [cut - cu_q[first] for cut in cu_q[first : last + 1]]
            part_k = [cut - cu_k[first] for cut in cu_k[first : last + 1]]
        if 0 in (q[rows].numel(), k[keys].numel()):  # The daemon takes no empty tensor.
            out, lse = _outputs(q[rows], v)
            lse.fill_(-torch.inf)
            if options.sinks is not None:
                lse.copy_(options.sinks[:, None])
            results.append((out.zero_(), lse))
            continue
        result = client.flash_attention(
            q[rows],
            k[keys],
            v[keys],
            cu_seqlens_q=part_q,
            cu_seqlens_k=part_k,
            options=_options_from(options, first),
        )
        results.append((result.out.to(q.device), result.lse.to(q.device)))
    if len(results) == 1:
        return results[0]
    outs, lses = zip(*results, strict=True)
    return torch.cat(outs), torch.cat(lses, 0 if cu_q is None else 1)


def _parts(
    client: attnd.Client,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cuts_q: Seq[int],
    cuts_k: Seq[int],
) -> list[tuple[int, int]]:
    """Ranges of sequences; one where all fit."""
    row = max(q.shape[-2] * q.shape[-1], q.shape[-2] * v.shape[-1]) * q.element_size()
    key = max(k.shape[-2] * k.shape[-1], v.shape[-2] * v.shape[-1]) * q.element_size()
    count = len(cuts_q) - 1
    # Far below every limit: no need to know them.
    if max(cuts_q[-1] * row, cuts_k[-1] * key) < 1 << 20 and cuts_q[-1] < 1 << 12:
        return [(0, count)]
    limits = client.capabilities()
    # A message takes three of the largest tensors (proto, `max_message_bytes`) and a header.
    most_bytes = (limits.max_message_bytes - (16 << 20)) // 3 or 1 << 62
    most_rows = limits.max_tokens_per_request or 1 << 62
    parts, first = [], 0
    lengths = zip(pairwise(cuts_q), pairwise(cuts_k), strict=True)
    for last, ((_, q1), (_, k1)) in enumerate(lengths):
        rows, keys = q1 - cuts_q[first], k1 - cuts_k[first]
        too_large = max(rows * row, keys * key) > most_bytes or rows > most_rows
        if too_large and last > first:
            parts.append((first, last))
            first = last
    return [*parts, (first, count)]


def _options_from(options: attnd.Options, first: int) -> attnd.Options:
    if options.dropout is None or first == 0:
        return options
    subsequence = (options.dropout.subsequence + first) % (1 << 32)
    return replace(options, dropout=replace(options.dropout, subsequence=subsequence))


@torch.library.custom_op("attnd::attention_backward", mutates_args=())
def _backward(
    grad_out: torch.Tensor,
    grad_lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    seed: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    cu_seqlens_q: list[int] | None,
    cu_seqlens_k: list[int] | None,
    causal: bool,
    softmax_scale: float,
    window_left: int | None,
    window_right: int | None,
    softcap: float,
    dropout_p: float,
    subsequence: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dropout = _dropout(seed, dropout_p, subsequence)
    scores = Scores(
        causal, softmax_scale, window_left, window_right, softcap, alibi_slopes, dropout
    )
    return attention_backward(
        grad_out, grad_lse, q, k, v, out, lse, scores, cu_seqlens_q, cu_seqlens_k
    )


@_backward.register_fake
def _(
    grad_out: torch.Tensor,
    grad_lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, seed, alibi_slopes, _sinks, *numbers, _client = inputs
    ctx.save_for_backward(q, k, v, *output, seed, alibi_slopes)
    ctx.numbers = numbers


def _differentiate(ctx: Any, grad_out: torch.Tensor, grad_lse: torch.Tensor) -> tuple[Any, ...]:
    grads = _backward(grad_out, grad_lse, *ctx.saved_tensors, *ctx.numbers)
    return (*grads, *[None] * 13)


def _refuse(ctx: Any, *grads: torch.Tensor) -> None:
    raise Unimplemented(
        "attention: got a second derivative (backward through a gradient made with "
        "create_graph=True), expected first derivatives only"
    )


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_refuse)
