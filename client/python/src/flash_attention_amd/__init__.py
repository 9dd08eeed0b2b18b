# SPDX-License-Identifier: Apache-2.0
"""flash_attention_amd: flash attention for PyTorch, served by attnd.

    from flash_attention_amd import flash_attn_func
    out = flash_attn_func(q, k, v, causal=True)  # q, k, v [B, S, H, D], of any device

The daemon at $ATTND_ADDRESS computes it, or one that the process starts for itself: on an AMD GPU
(HIP_VISIBLE_DEVICES chooses among several) where it finds one, else on the CPU. The tensors are
copied to it and back, from wherever they are. `python -m flash_attention_amd` checks that it works.
"""

from attnd import shared as _shared

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "flash_attention_amd needs PyTorch, which is not installed: pip install 'attnd[torch]'"
    ) from error

from flash_attention_amd.functional import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
)
from flash_attention_amd.kvcache import flash_attn_with_kvcache
from flash_attention_amd.module import FlashAttention
from flash_attention_amd.varlen import (
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)


def set_memory_fraction(fraction: float) -> None:
    """Share of each GPU's memory that the process's own daemon reserves for keys and values.

    What torch.cuda.set_per_process_memory_fraction is for PyTorch's own allocations. To be called
    before the first attention; without it the daemon takes 1 GiB, which `flash_attn_func` does not
    need: it keeps nothing. On the CPU it changes nothing. A daemon at $ATTND_ADDRESS has a flag for
    it, --gpu_memory_fraction.

    Args:
        fraction: 0.05 to 0.98.

    Raises:
        InvalidArgument: out of range.
        FailedPrecondition: the daemon runs already with another size.
    """
    _shared.set_memory(memory_fraction=fraction)


__all__ = [
    "FlashAttention",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "set_memory_fraction",
]
