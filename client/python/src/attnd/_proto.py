# SPDX-License-Identifier: Apache-2.0
"""The generated modules of the wire contract, imported in one place."""

try:
    from attnd.v1 import (
        admin_pb2,
        attention_pb2,
        cache_pb2,
        rpc_status_pb2,
        sequence_pb2,
        session_pb2,
        types_pb2,
    )
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("attnd.v1"):
        raise
    raise ModuleNotFoundError(
        f"{error.name} is not there yet: run `python client/python/generate_protos.py`",
        name=error.name,
    ) from None

__all__ = [
    "admin_pb2",
    "attention_pb2",
    "cache_pb2",
    "rpc_status_pb2",
    "sequence_pb2",
    "session_pb2",
    "types_pb2",
]
