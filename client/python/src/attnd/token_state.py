# SPDX-License-Identifier: Apache-2.0
"""Token ids in a sequence's client_state: all that a new client needs to go on with a text.

16 bytes of header, little-endian: magic "ATOK", version u8, bytes per id u8 (2 or 4), row of
the batch u16, prompt tokens u32, target tokens u32; then the ids.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnd.errors import InvalidArgument
from attnd.options import integer

_HEADER = struct.Struct("<4sBBHII")
_MAGIC = b"ATOK"
_VERSION = 1
_IDS: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


@dataclass(frozen=True, slots=True)
class TokenState:
    """The text of one sequence so far.

    Attributes:
        row: of the batch that it was generated in; a resumed batch keeps the order.
        prompt_length: how many of the ids are the prompt's.
        target_length: how many ids the finished text has; 0: whoever goes on decides.
        ids: prompt and generated tokens, without padding.
    """

    row: int
    prompt_length: int
    target_length: int
    ids: list[int]

    def encode(self) -> bytes:
        """The client_state: 2 bytes an id where all are below 65,536, else 4.

        Raises:
            InvalidArgument: an id is outside [0, 2^32), prompt_length outside [0, len(ids)], row
                outside [0, 2^16) or target_length outside [0, 2^32).
        """
        integer("row", self.row, most=2**16 - 1)
        integer("target_length", self.target_length, most=2**32 - 1)
        if not 0 <= self.prompt_length <= len(self.ids):
            raise InvalidArgument(
                f"prompt_length: got {self.prompt_length}, expected 0 to {len(self.ids)}"
            )
        highest, lowest = max(self.ids, default=0), min(self.ids, default=0)
        if lowest < 0 or highest >= 2**32:
            raise InvalidArgument(f"ids: got {lowest} to {highest}, expected 0 to {2**32 - 1}")
        width = 2 if highest < 2**16 else 4
        header = _HEADER.pack(
            _MAGIC, _VERSION, width, self.row, self.prompt_length, self.target_length
        )
        return header + np.asarray(self.ids, _IDS[width]).tobytes()

    @classmethod
    def decode(cls, state: bytes) -> TokenState:
        """Reads what `encode` wrote.

        Raises:
            InvalidArgument: `state` is something else, or cut off.
        """
        if len(state) < _HEADER.size:
            raise InvalidArgument(
                f"client_state: got {len(state)} bytes, expected at least {_HEADER.size}"
            )
        magic, version, width, row, prompt_length, target_length = _HEADER.unpack_from(state)
        if magic != _MAGIC or version != _VERSION or width not in _IDS:
            raise InvalidArgument(
                f"client_state: got header {state[:6].hex()}, expected token ids of version 1"
            )
        body = state[_HEADER.size :]
        if len(body) % width or prompt_length > len(body) // width:
            raise InvalidArgument(
                f"client_state: got {len(body)} bytes of ids of {width} bytes each for a prompt of "
                f"{prompt_length} tokens; it is cut off"
            )
        return cls(row, prompt_length, target_length, np.frombuffer(body, _IDS[width]).tolist())
