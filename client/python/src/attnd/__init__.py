# SPDX-License-Identifier: Apache-2.0
"""attnd: the client of the attention backend daemon.

The daemon keeps the keys and values of language models in a paged cache of its own and computes
attention over them; a model server sends what is new and gets the attention output back. `Client`
is where to start; `attnd.transformers` serves Hugging Face models with it; `python -m attnd.demo`
shows both.
"""

from attnd.attention import AttendResult, FlashResult, Item, ItemResult, Timing
from attnd.channel import RetryPolicy
from attnd.client import Client, KvCache
from attnd.errors import (
    Aborted,
    AttndError,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Draining,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SessionLost,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from attnd.options import Dropout, Options
from attnd.sequence import Sequence
from attnd.session import Session

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "AttendResult",
    "AttndError",
    "Cancelled",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "Draining",
    "Dropout",
    "FailedPrecondition",
    "FlashResult",
    "Internal",
    "InvalidArgument",
    "Item",
    "ItemResult",
    "KvCache",
    "MessageTooLarge",
    "NotFound",
    "Options",
    "PermissionDenied",
    "ResourceExhausted",
    "RetryPolicy",
    "Sequence",
    "Session",
    "SessionLost",
    "Timing",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]
