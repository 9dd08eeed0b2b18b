# SPDX-License-Identifier: Apache-2.0
"""attnd: the client of the attention backend daemon.

The daemon keeps the keys and values of language models in a paged cache of its own and computes
attention over them; a model server sends what is new and gets the attention output back.
`connect()` is where to start, `Client` what it returns; `attnd.transformers` serves Hugging Face
models with it; `python -m attnd.demo` shows both.
"""

from attnd.attention import AttendResult, FlashResult, Item, ItemResult, Timing
from attnd.channel import RetryPolicy
from attnd.client import Client, KvCache
from attnd.credentials import Credentials
from attnd.embedded import DaemonNotStarted, EmbeddedDaemon
from attnd.errors import (
    Aborted,
    AttndError,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Draining,
    FailedPrecondition,
    ForkedProcess,
    HandshakeFailed,
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
from attnd.shared import connect, disconnect

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "AttendResult",
    "AttndError",
    "Cancelled",
    "Client",
    "Credentials",
    "DaemonNotStarted",
    "DataLoss",
    "DeadlineExceeded",
    "Draining",
    "Dropout",
    "EmbeddedDaemon",
    "FailedPrecondition",
    "FlashResult",
    "ForkedProcess",
    "HandshakeFailed",
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
    "connect",
    "disconnect",
]
