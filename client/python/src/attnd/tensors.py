# SPDX-License-Identifier: Apache-2.0
"""Tensors between numpy or torch and the bytes of a message.

Outgoing arrays are read in place: a contiguous array costs no copy until the one join that makes
the message. Incoming numpy arrays are read-only views of the received message, with no copy at all;
torch tensors, which cannot be read-only, are copied once.

bf16 has no numpy type: a numpy array of uint16 stands for the bit patterns of bf16 values, both
ways (`ml_dtypes.bfloat16` arrays are taken too). torch.bfloat16 is itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnd._proto import types_pb2
from attnd.errors import Internal, InvalidArgument

if TYPE_CHECKING:
    import torch

    Array = npt.NDArray[Any] | torch.Tensor
else:
    Array = Any

F32, F16, BF16, U8 = (
    types_pb2.DTYPE_F32,
    types_pb2.DTYPE_F16,
    types_pb2.DTYPE_BF16,
    types_pb2.DTYPE_U8,
)
_NAMES: dict[int, str] = {F32: "f32", F16: "f16", BF16: "bf16", U8: "u8"}
_CODES: dict[str, int] = {name: code for code, name in _NAMES.items()}
_NUMPY: dict[int, np.dtype[Any]] = {
    F32: np.dtype("<f4"),
    F16: np.dtype("<f2"),
    BF16: np.dtype("<u2"),
    U8: np.dtype("u1"),
}
_NATIVE: dict[np.dtype[Any], int] = {dtype: code for code, dtype in _NUMPY.items()}
_FROM_NUMPY: dict[str, int] = {
    "float32": F32,
    "float16": F16,
    "uint16": BF16,
    "bfloat16": BF16,
    "uint8": U8,
}
_FROM_TORCH: dict[str, int] = {
    "torch.float32": F32,
    "torch.float16": F16,
    "torch.bfloat16": BF16,
    "torch.uint8": U8,
}
FLOATS: tuple[int, ...] = (F32, F16, BF16)


def dtype_name(code: int) -> str:
    """What a value of the proto's DType is called: "f32", "f16", "bf16" or "u8"."""
    return _NAMES.get(code, f"dtype {code}")


def dtype_code(dtype: Any) -> int:
    """The proto's DType for a name ("f32"), a numpy dtype or a torch dtype.

    Raises:
        InvalidArgument: `dtype` is none of f32, f16, bf16 and u8.
    """
    text = str(dtype) if not isinstance(dtype, type) else np.dtype(dtype).name
    code = _CODES.get(text) or _FROM_TORCH.get(text) or _FROM_NUMPY.get(text)
    if code is None:
        raise InvalidArgument(f"dtype: got {dtype!r}, expected one of {', '.join(_CODES)}")
    return code


@dataclass(slots=True)
class HostTensor:
    """A dense, row-major tensor in host memory, ready to be sent."""

    dtype: int  # of the proto
    shape: tuple[int, ...]
    data: memoryview  # of its bytes; keeps the memory alive
    is_torch: bool


def is_torch(value: object) -> bool:
    """Whether `value` is a torch tensor, without importing torch for those who do not use it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_host(name: str, value: Any, *, rank: int, dtypes: Seq[int] = FLOATS) -> HostTensor:
    """Reads `value`, a numpy array or torch tensor of any device and strides.

    Args:
        name: the argument's name, for messages.
        rank: how many dimensions it must have.
        dtypes: which of the proto's DTypes are allowed.

    Raises:
        TypeError: not a numpy array or torch tensor.
        InvalidArgument: wrong rank, a size below 1, a dtype that is not allowed, or a tensor that
            wants a gradient, which would be lost silently.
    """
    array, code = value, None
    torch_tensor = is_torch(value)
    if torch_tensor:
        code = _FROM_TORCH.get(str(value.dtype))
        if code in dtypes:
            array = _torch_to_numpy(name, value, code)
    elif isinstance(value, np.ndarray):
        code = _NATIVE.get(value.dtype)
        if code is None:
            code = _FROM_NUMPY.get(value.dtype.name)  # Another byte order, or ml_dtypes.
            if code in dtypes and value.dtype.byteorder == ">":
                array = value.astype(value.dtype.newbyteorder("<"))
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name}: got a {kind}, expected a numpy array or a torch tensor")
    shape = tuple(value.shape)
    if code is None or code not in dtypes:
        allowed = ", ".join(map(dtype_name, dtypes))
        hint = " (numpy uint16 holds bf16 bit patterns)" if BF16 in dtypes else ""
        raise InvalidArgument(f"{name}: got dtype {value.dtype}, expected one of {allowed}{hint}")
    if len(shape) != rank:
        raise InvalidArgument(
            f"{name}: got shape {list(shape)} of {len(shape)} dimensions, expected {rank}"
        )
    if 0 in shape:
        raise InvalidArgument(f"{name}: got shape {list(shape)}, expected no size below 1")
    data = memoryview(np.ascontiguousarray(array).view(np.uint8).data)
    return HostTensor(code, shape, data.cast("B"), torch_tensor)


def _torch_to_numpy(name: str, value: Any, code: int | None) -> npt.NDArray[Any]:
    import torch

    if value.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(
            f"{name}: requires a gradient, which attention in the daemon does not give; expected a "
            "tensor under torch.no_grad(), or one that was detached"
        )
    value = value.detach().cpu().contiguous()
    array: npt.NDArray[Any] = (value.view(torch.uint16) if code == BF16 else value).numpy()
    return array


def describe(tensor: types_pb2.Tensor, host: HostTensor, offset_bytes: int) -> None:
    """Fills the message's Tensor for `host` at `offset_bytes` of the message's tensor_data."""
    tensor.dtype = host.dtype  # type: ignore[assignment]
    tensor.shape.extend(host.shape)
    tensor.offset_bytes = offset_bytes


def from_message(tensor: types_pb2.Tensor, data: memoryview, *, as_torch: bool) -> Array:
    """The array that `tensor` describes in a response's `data`.

    Returns:
        A read-only numpy view of `data`, or a torch tensor of its own.

    Raises:
        Internal: the response's own description does not fit its bytes.
    """
    dtype = _NUMPY.get(tensor.dtype)
    shape = tuple(tensor.shape)
    if dtype is None or not shape or min(shape) < 1:
        raise Internal(f"the daemon sent a tensor of dtype {tensor.dtype}, shape {list(shape)}")
    count = 1
    for size in shape:
        count *= size
    if tensor.offset_bytes + count * dtype.itemsize > len(data):
        raise Internal(
            f"the daemon sent a tensor of shape {list(shape)} at offset {tensor.offset_bytes}, "
            f"beyond its {len(data)} bytes"
        )
    array = np.frombuffer(data, dtype, count, tensor.offset_bytes).reshape(shape)
    if not as_torch:
        return array
    import torch

    result: torch.Tensor = torch.from_numpy(array.copy())
    return result.view(torch.bfloat16) if tensor.dtype == BF16 else result
