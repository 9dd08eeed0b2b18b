# SPDX-License-Identifier: Apache-2.0
"""Checks the installation: attention and its gradients against fp64, on fresh random inputs.

    python -m flash_attention_amd [--device cpu] [--seed N]

Exit code 0 and "Flash Attention is working!" where every error is within its bound; else 1.
"""

from __future__ import annotations

import argparse
import sys

import torch

import attnd
from flash_attention_amd import flash_attn_func

# Relative L2 of output and gradients. fp32: the daemon's own bound; the halves: their rounding.
_BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """Attention of [B, S, H, D] in fp64, from the formula."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    out: torch.Tensor = (scores.softmax(-1) @ v).transpose(1, 2)
    return out


def worst_error(dtype: torch.dtype, causal: bool, device: str, length: int) -> float:
    """The largest relative L2 error of the output and of the gradients of q, k and v."""
    shape = (2, length, 8, 64)
    q, k, v = (torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3))
    weights = torch.randn(shape, device=device).to(dtype)
    out = flash_attn_func(q, k, v, causal=causal)
    assert isinstance(out, torch.Tensor)
    got = [out, *torch.autograd.grad(out, (q, k, v), weights)]
    doubles = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out = exact(doubles[0], doubles[1], doubles[2], causal)
    want = [out, *torch.autograd.grad(out, doubles, weights.double())]
    pairs = zip(got, (x.detach() for x in want), strict=True)
    return max(float((a.detach().double() - b).norm() / b.norm()) for a, b in pairs)


def main() -> int:
    """Parses the flags, checks, and says what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m flash_attention_amd", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=None, help="of the random inputs")
    parser.add_argument("--length", type=int, default=256, help="tokens of each sequence")
    args = parser.parse_args()
    seed = torch.seed() % 2**32 if args.seed is None else args.seed
    torch.manual_seed(seed)
    try:
        limits = attnd.connect().capabilities()
        print(f"daemon: {limits.version}, {limits.backend} ({limits.isa}) on {limits.device}")
        print(f"tensors: {args.device}, 2 x {args.length} x 8 x 64, seed {seed}")
        bad = 0
        for dtype, bound in _BOUNDS.items():
            for causal in (False, True):
                error = worst_error(dtype, causal, args.device, args.length)
                verdict = "ok" if error <= bound else f"above {bound:g}"
                bad += error > bound
                name = f"{str(dtype).removeprefix('torch.')}{', causal' if causal else ''}"
                print(f"  {name:18} relative L2 error {error:.1e}: {verdict}")
    except (attnd.AttndError, RuntimeError) as error:
        print(f"Flash Attention does not work: {error}", file=sys.stderr)
        return 1
    if bad:
        print("Flash Attention does not work: errors above their bounds", file=sys.stderr)
        return 1
    print("Flash Attention is working!")
    return 0


if __name__ == "__main__":
    sys.exit(main())
