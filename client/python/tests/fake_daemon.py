# SPDX-License-Identifier: Apache-2.0
"""A daemon in Python: the semantics of attnd.v1 that the client relies on, in numpy and fp64.

It lets the client's tests run without the binary, and cause what a real daemon does rarely:
`fail_next` makes the next calls of a method fail, before or after they were executed. One big lock,
no pages, no scheduler.

    python client/python/tests/fake_daemon.py --listen unix:/tmp/fake.sock --ready_file /tmp/ready
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections import deque
from concurrent import futures

import grpc

from attnd._proto import (
    admin_pb2,
    attention_pb2,
    cache_pb2,
    rpc_status_pb2,
    sequence_pb2,
    session_pb2,
    types_pb2,
)
from fake_attention import FakeAttention
from fake_state import Code, Refused


class FakeDaemon(FakeAttention):
    """The state, and one method per RPC. `with` serves it.

    `secure`, where given, makes it speak TLS; `tokens`, one of which each call must carry then.
    Port 0 of an address becomes the one that it got.
    """

    def __init__(
        self,
        address: str,
        secure: grpc.ServerCredentials | None = None,
        tokens: set[str] | None = None,
    ) -> None:
        super().__init__()
        self.address = address
        self.lock = threading.Lock()
        self.failures: dict[str, deque[tuple[Refused, bool]]] = {}
        self.calls: list[str] = []
        self.server = grpc.server(
            futures.ThreadPoolExecutor(4),
            options=[("grpc.max_receive_message_length", self.max_message_bytes)],
        )
        self.server.add_generic_rpc_handlers((_Handler(self),))
        self.tokens = tokens
        self.sent_tokens: list[str | None] = []
        if secure is None:
            port = self.server.add_insecure_port(address)
        else:
            port = self.server.add_secure_port(address, secure)
        if address.endswith(":0"):
            self.address = f"{address[:-2]}:{port}"

    def __enter__(self) -> FakeDaemon:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop(None).wait()

    def fail_next(self, method: str, code: Code, *, executed: bool = False, **detail: int) -> None:
        """The next call of `method` fails; `executed`: after it was done, as a lost answer."""
        refused = Refused(code, "made to fail", **detail)
        self.failures.setdefault(method, deque()).append((refused, executed))

    def handle(self, method: str, request: bytes) -> bytes:
        with self.lock:
            self.calls.append(method)
            self.stats.requests_total += 1
            failures = self.failures.get(method)
            failure, executed = failures.popleft() if failures else (None, False)
            if failure and not executed:
                raise failure
            message_type, function = _METHODS[method]
            try:
                message = message_type.FromString(request)
            except Exception as error:
                raise Refused(Code.INVALID_ARGUMENT, f"malformed: {error}") from error
            response = function(self, message)
            if failure:
                raise failure
            return response.SerializeToString()

    # AdminService.

    def get_stats(self, request):
        self.stats.sessions = len(self.sessions)
        self.stats.sequences = sum(len(s.sequences) for s in self.sessions.values())
        del self.stats.caches[:]
        self.stats.caches.extend(map(self.info, self.caches.values()))
        return self.stats

    def check_integrity(self, request):
        return admin_pb2.CheckIntegrityResponse()


_SERVICES = {
    "CacheService": (cache_pb2, ["OpenCache", "CloseCache", "ListCaches"]),
    "SessionService": (
        session_pb2,
        ["OpenSession", "ResumeSession", "RenewLease", "CloseSession"],
    ),
    "SequenceService": (
        sequence_pb2,
        [
            "CreateSequence",
            "ForkSequence",
            "TruncateSequence",
            "FreeSequence",
            "DescribeSequence",
            "ListSequences",
            "SetClientState",
            "PublishPrefix",
            "MatchPrefix",
        ],
    ),
    "AttentionService": (attention_pb2, ["GetCapabilities", "Attend", "FlashAttention"]),
    "AdminService": (admin_pb2, ["GetStats", "CheckIntegrity"]),
}


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


_METHODS = {
    method: (getattr(module, method + "Request"), getattr(FakeDaemon, _snake(method)))
    for module, methods in _SERVICES.values()
    for method in methods
}


class _Handler(grpc.GenericRpcHandler):
    """Routes by path, and turns Refused into a status with details."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def service(self, details):
        service, method = details.method.removeprefix("/attnd.v1.").split("/")
        if method not in _SERVICES.get(service, (None, []))[1]:
            return None

        def call(request: bytes, context: grpc.ServicerContext) -> bytes:
            sent = dict(context.invocation_metadata()).get("authorization")
            token = None if sent is None else sent.removeprefix("Bearer ")
            self.daemon.sent_tokens.append(token)
            if self.daemon.tokens is not None and token not in self.daemon.tokens:
                context.abort(Code.UNAUTHENTICATED, "no such token")
            try:
                return self.daemon.handle(method, request)
            except Refused as refused:
                if refused.detail:
                    status = rpc_status_pb2.RpcStatus(
                        code=refused.code.value[0], message=refused.message
                    )
                    status.details.add().Pack(types_pb2.ErrorDetail(**refused.detail))
                    context.set_trailing_metadata(
                        [("grpc-status-details-bin", status.SerializeToString())]
                    )
                context.abort(refused.code, refused.message)

        return grpc.unary_unary_rpc_method_handler(call)


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake attnd, for tests of the client.")
    parser.add_argument("--listen", required=True)
    parser.add_argument("--ready_file")
    args = parser.parse_args()
    with FakeDaemon(args.listen) as daemon:
        if args.ready_file:
            with open(args.ready_file + ".part", "w", encoding="utf-8") as file:
                json.dump({"listen": [args.listen], "metrics": "", "pid": os.getpid()}, file)
            os.replace(args.ready_file + ".part", args.ready_file)
        daemon.server.wait_for_termination()


if __name__ == "__main__":
    main()
