# SPDX-License-Identifier: Apache-2.0
"""python -m attnd.serve, driven by a plain HTTP client: two servers that share one daemon."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fastapi")

import attnd  # noqa: E402
from attnd.demo import model as demo_model  # noqa: E402
from conftest import SOURCE, daemon_binary, start_real, stop_real  # noqa: E402

# Long enough to fill several pages of 16 tokens.
SYSTEM = (
    "You are a patient gardener who answers in one short sentence. You know trees, herbs, soil, "
    "seasons and tools, you never guess, and you name plants by their common names. Water early, "
    "prune late, and leave the leaves where they fall."
)
NEW_TOKENS = 12


class Server:
    """One server process; `address` is (host, port)."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.log: list[str] = []
        self._up = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "Uvicorn running" in line:
                self._up.set()
        self._up.set()

    def wait(self) -> None:
        assert self._up.wait(120), "".join(self.log)
        assert self.process.poll() is None, "".join(self.log)

    def ask(self, question: str, *, stream: bool = False) -> str:
        """The answer's text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = {
            "model": str(model_path()),
            "messages": messages(question),
            "max_tokens": NEW_TOKENS,
            "temperature": 0.0,
            "stream": stream,
            "generation_config": json.dumps({"do_sample": False, "max_new_tokens": NEW_TOKENS}),
        }
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        data = response.read().decode()
        assert response.status == 200, data + "".join(self.log)
        connection.close()
        if not stream:
            return str(json.loads(data)["choices"][0]["message"]["content"])
        text, events = "", 0
        for line in data.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                delta = json.loads(line[6:])["choices"][0]["delta"]
                text += delta.get("content") or ""
                events += 1
        assert events > 2, "the answer came in one piece"
        return text


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def model_path() -> Path:
    folder = os.environ.get("ATTND_MODEL_DIR")
    return demo_model.prepare(Path(folder) if folder else None)


def free_port() -> int:
    # transformers serve takes no port 0; nothing else here binds ports between this and its start.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(address: str) -> Server:
    port = free_port()
    command = [
        *(sys.executable, "-m", "attnd.serve", str(model_path()), "--attnd", address),
        *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"),
    ]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    return Server(process, port)


@contextmanager
def stopped_at_the_end(*servers: Server) -> Iterator[None]:
    try:
        yield
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="module")
def questions_and_answers() -> dict[str, str]:
    """What transformers' eager attention answers, greedily."""
    try:
        language_model, tokenizer = demo_model.load(model_path(), "eager")
    except demo_model.ModelMissing as missing:
        pytest.skip(str(missing))
    answers = {}
    for question in ("When do I plant garlic?", "Which tree likes wet soil?"):
        inputs: Any = tokenizer.apply_chat_template(
            messages(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            ids = language_model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        answers[question] = tokenizer.decode(new, skip_special_tokens=True)
    return answers


def test_two_servers_share_a_daemon_and_its_prefixes(
    questions_and_answers: dict[str, str],
) -> None:
    if not daemon_binary().is_file():
        pytest.skip(f"{daemon_binary()} is not built")
    (first_question, first_answer), (second_question, second_answer) = questions_and_answers.items()
    with tempfile.TemporaryDirectory(prefix="attnd-", dir="/tmp") as folder:
        process, daemon = start_real(Path(folder), "--default_lease=4s")
        first, second = start_server(daemon.address), start_server(daemon.address)
        with stopped_at_the_end(first, second), attnd.Client(daemon.address) as client:
            first.wait()
            second.wait()

            assert first.ask(first_question) == first_answer
            one = client.stats()
            assert one.prefix_tokens_matched_total == 0

            # Another process, another question: the system prompt's full pages are not computed
            # again, in any of the layers.
            assert second.ask(second_question, stream=True) == second_answer
            two = client.stats()
            matched = two.prefix_tokens_matched_total
            assert matched >= 48, "the system prompt fills at least three pages"
            page = two.caches[0].geometry.page_size_tokens
            assert matched % page == 0
            queried = two.prefix_tokens_queried_total - one.prefix_tokens_queried_total
            layers = two.caches[0].geometry.num_layers
            written = two.tokens_written_total - one.tokens_written_total
            # The last token is never fed back.
            assert written <= (queried - matched + NEW_TOKENS) * layers

            # The same question again, by the first server: all but the last page comes from there.
            assert first.ask(second_question) == second_answer
            again = client.stats().prefix_tokens_matched_total - matched
            assert again >= matched

            # One is killed in the middle of its life; the other goes on.
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            assert second.ask(first_question) == first_answer
            # Its session ends with the lease; the other server's is renewed.
            deadline = time.monotonic() + 60
            while client.stats().sessions > 1 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert client.stats().sessions == 1
            assert client.stats().sequences == 0
            assert second.ask(second_question) == second_answer
            client.check_integrity()
        assert stop_real(process) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--attn-implementation=sdpa"], "attnd is the attention implementation"),
        (["x", "--continuous-batching"], "keeps a paged cache of its own"),
    ],
)
def test_flags_that_would_bypass_attnd_are_refused(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "attnd.serve", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(SOURCE)}
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_no_daemon_is_said_at_the_start() -> None:
    command = [sys.executable, "-m", "attnd.serve", "x", "--attnd", "unix:/nonexistent/attnd.sock"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(SOURCE)}
    )
    assert done.returncode == 2
    assert "unix:/nonexistent/attnd.sock" in done.stderr
