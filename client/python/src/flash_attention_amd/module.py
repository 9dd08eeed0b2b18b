# SPDX-License-Identifier: Apache-2.0
"""Attention as a module of a network."""

from __future__ import annotations

import torch

import attnd
from attnd.errors import InvalidArgument
from flash_attention_amd.functional import flash_attn_func


class FlashAttention(torch.nn.Module):
    """`flash_attn_func` with its options kept; it has no parameters.

    Args:
        attention_dropout: in [0, 1), of the probabilities, while the module is in training mode.
        softmax_scale: of the scores; None: 1 / sqrt(head_dim).
        causal: unless forward says otherwise.
        client: of a daemon; None: `attnd.connect()`.

    Raises:
        InvalidArgument: attention_dropout is out of range.
    """

    def __init__(
        self,
        attention_dropout: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        *,
        client: attnd.Client | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= attention_dropout < 1:
            raise InvalidArgument(f"attention_dropout: got {attention_dropout}, expected [0, 1)")
        self.attention_dropout = attention_dropout
        self.softmax_scale = softmax_scale
        self.causal = causal
        self._client = client

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        causal: bool | None = None,
        *,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, Sq, Hq, D] from q [B, Sq, Hq, D] and k, v [B, Sk, Hkv, D].

        Args:
            causal: None: the module's own.
            window_size, softcap, alibi_slopes: as of `flash_attn_func`, and its errors.
        """
        out = flash_attn_func(
            q,
            k,
            v,
            causal=self.causal if causal is None else causal,
            softmax_scale=self.softmax_scale,
            dropout_p=self.attention_dropout if self.training else 0.0,
            window_size=window_size,
            softcap=softcap,
            alibi_slopes=alibi_slopes,
            client=self._client,
        )
        assert isinstance(out, torch.Tensor)
        return out

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"attention_dropout={self.attention_dropout}, causal={self.causal}"
