# SPDX-License-Identifier: Apache-2.0
"""Content keys: names of a prompt's full pages, so that equal prompts share what was computed.

Key i commits to the tokens of page i and to all before them: it is the SHA-256 of key i - 1 and of
the page's token ids. Two prompts have as many keys in common as they have equal full pages from the
start, whichever process made them. Source: Kwon et al., "Efficient Memory Management for Large
Language Model Serving with PagedAttention", 2023, section 4.4 (shared prefixes); hash chains after
Merkle, "A digital signature based on a conventional encryption function", 1987.

    keys = page_keys(token_ids, page_size_tokens=cache.geometry.page_size_tokens)
    sequence = session.create_sequence(cache, prefix_keys=keys, num_tokens=len(token_ids))
    ...                            # compute token_ids[sequence.matched_tokens :]
    sequence.publish(keys)
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np

from attnd.errors import InvalidArgument
from attnd.options import integer

KEY_BYTES = 32
MIN_KEY_BYTES, MAX_KEY_BYTES = 16, 64
MAX_KEYS = 1 << 16
_MAX_PAGE_SIZE_TOKENS = 1024
_DOMAIN = b"attnd.page_keys.1"


def page_keys(token_ids: Any, page_size_tokens: int, salt: bytes = b"") -> list[bytes]:
    """The content keys of a prompt: one of 32 bytes for each full page.

    The root of the chain is SHA-256 over "attnd.page_keys.1", the page size (u32), the salt's
    length (u64) and the salt; each key is SHA-256 over the key before, or the root, and the page's
    ids (u64 each); all little-endian.

    Args:
        token_ids: [n] integers in [0, 2^63), of any integer sequence, numpy array or torch tensor.
        page_size_tokens: of the cache, 1 to 1024.
        salt: what else the keys and values depend on besides the tokens: the model's revision, an
            adapter, images. Where it differs, no key is the same.

    Returns:
        n // page_size_tokens keys; the tokens of the last, partial page have none.

    Raises:
        TypeError: an id is no integer, salt is no bytes.
        InvalidArgument: an id or page_size_tokens is out of range, or token_ids is not flat.
    """
    page_size_tokens = integer(
        "page_size_tokens", page_size_tokens, least=1, most=_MAX_PAGE_SIZE_TOKENS
    )
    if not isinstance(salt, bytes):
        raise TypeError(f"salt: got a {type(salt).__name__}, expected bytes")
    ids = _as_ids(token_ids)
    root = _DOMAIN + struct.pack("<IQ", page_size_tokens, len(salt)) + salt
    key = hashlib.sha256(root).digest()
    keys = []
    for page in range(len(ids) // page_size_tokens):
        begin = page * page_size_tokens
        key = hashlib.sha256(key + ids[begin : begin + page_size_tokens].tobytes()).digest()
        keys.append(key)
    return keys


def check_keys(name: str, keys: Seq[bytes]) -> list[bytes]:
    """`keys` as a list the daemon accepts.

    Raises:
        TypeError: a key is no bytes.
        InvalidArgument: a key has not 16 to 64 bytes, or there are more than 65,536.
    """
    keys = list(keys)
    if len(keys) > MAX_KEYS:
        raise InvalidArgument(f"{name}: got {len(keys)} keys, expected at most {MAX_KEYS}")
    for index, key in enumerate(keys):
        if not isinstance(key, bytes):
            raise TypeError(f"{name}[{index}]: got a {type(key).__name__}, expected bytes")
        if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            raise InvalidArgument(
                f"{name}[{index}]: got {len(key)} bytes ({key[:16].hex()!r}), "
                f"expected {MIN_KEY_BYTES} to {MAX_KEY_BYTES}"
            )
    return keys


def _as_ids(token_ids: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[n], little-endian."""
    if hasattr(token_ids, "detach"):  # A torch tensor, possibly of a device.
        token_ids = token_ids.detach().cpu().numpy()
    try:
        ids = np.asarray(token_ids)
    except ValueError as error:
        raise InvalidArgument(
            f"token_ids: got nested sequences of unequal lengths: {error}"
        ) from None
    if ids.ndim != 1:
        raise InvalidArgument(f"token_ids: got shape {list(ids.shape)}, expected [n]")
    if ids.size == 0:
        return np.zeros(0, "<i8")
    if ids.dtype.kind not in "iu":
        # Integers beyond 64 bits come as objects or floats: range first, type second.
        for index, value in enumerate(token_ids):
            integer(f"token_ids[{index}]", value)
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= 2**63:
        raise InvalidArgument(f"token_ids: got {lowest} to {highest}, expected 0 to {2**63 - 1}")
    return ids.astype("<i8")
