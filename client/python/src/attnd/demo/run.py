# SPDX-License-Identifier: Apache-2.0
"""The parts of the demo, one after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attnd
from attnd.demo import generation, metrics, model
from attnd.demo.progress import Progress
from attnd.demo.prompts import PROMPTS
from attnd.demo.report import Outcome, print_answers, print_clock, print_daemon
from attnd.transformers import register

_PAGES = "attnd_pages"
_TOKENS_WRITTEN = "attnd_tokens_written_total"


class WorkerFailed(attnd.AttndError):
    """A client process of the demo ended in another way than it should."""


class Demo:
    """One run against one daemon."""

    def __init__(
        self,
        address: str,
        metrics_address: str,
        new_tokens: int,
        model_dir: Path | None,
        credentials: attnd.Credentials | None = None,
    ) -> None:
        self._credentials = credentials or attnd.Credentials()
        self._client = attnd.Client(address, credentials=self._credentials)
        self._metrics_address = metrics_address
        self._new_tokens = new_tokens
        self._model_dir = model_dir
        self._outcome = Outcome(prompts=len(PROMPTS), tokens=len(PROMPTS) * new_tokens)
        self._path = Path()
        self._expected: list[list[int]] = []
        self._prompt_lengths: list[int] = []

    def run(self) -> Outcome:
        """All parts; raises AttndError, ModelMissing or OSError where one cannot be run."""
        daemon = self._client.capabilities()
        print(f"attnd {daemon.version} at {self._client.address}: {daemon.backend}, {daemon.isa}")
        print(
            f"{model.NAME} in fp32, {len(PROMPTS)} prompts, {self._new_tokens} greedy tokens each"
        )
        register()
        self._serve_batch()
        self._kill_and_resume()
        return self._outcome

    # The batch, twice.

    def _serve_batch(self) -> None:
        note = "" if model.prepared_path(self._model_dir).is_dir() else "  (once: about 20 s)"
        print(f"\n1. Loading the model{note}")
        progress = Progress("loaded", 1, "")
        self._path = model.prepare(self._model_dir)
        language_model, tokenizer = model.load(self._path, "eager")
        progress.finish()

        batch = generation.encode(tokenizer)
        self._prompt_lengths = batch.prompt_lengths
        lengths = ", ".join(map(str, self._prompt_lengths))
        print(f"\n2. The answers, one batch of prompts of {lengths} tokens")
        progress = Progress("transformers, eager attention", self._new_tokens, "tokens")
        self._expected = generation.generate(
            language_model, batch, self._new_tokens, progress.update
        )
        progress.finish(self._speed(progress))

        language_model.set_attn_implementation("attnd")
        with self._client.open_session(lease_s=120, label="demo: the batch") as session:
            progress = Progress("attnd, every attention call", self._new_tokens, "tokens")
            answers, cache = generation.generate_with_attnd(
                language_model, batch, self._new_tokens, session, progress.update
            )
            generation_s = progress.elapsed_s
            progress.finish(self._speed(progress))
            scrape, stats = self._scrape(), self._client.stats()
        self._outcome.pages_peak = self._pages(scrape, stats)
        self._outcome.attention_ms = cache.clock.daemon_ns / 1e6
        print_answers(PROMPTS, self._prompt_lengths, tokenizer.batch_decode(answers))
        self._outcome.identical = answers == self._expected and all(
            len(answer) == self._new_tokens for answer in answers
        )
        print(f"  tokens: {self._compare(answers)} (the same left-padded batch, both times)")
        print_clock(cache.clock, generation_s)
        info = next(info for info in stats.caches if info.name == generation.CACHE_NAME)
        print_daemon(info, stats, scrape, self._outcome.pages_peak)

    def _speed(self, progress: Progress) -> str:
        return f"{self._outcome.tokens / progress.elapsed_s:.1f} tokens/s, prompts included"

    def _compare(self, answers: list[list[int]]) -> str:
        same = sum(
            ours == theirs
            for row, expected in zip(answers, self._expected, strict=True)
            for ours, theirs in zip(row, expected, strict=False)
        )
        return f"{same} of {self._outcome.tokens} are those of eager attention"

    # The killed client.

    def _kill_and_resume(self) -> None:
        print("\n3. A client is killed in the middle, and a new one takes over")
        kill_at = self._new_tokens * 3 // 8
        progress = Progress("first client", self._new_tokens, "tokens")
        token, reached = "", 0
        with self._worker("generate", f"--new_tokens={self._new_tokens}") as worker:
            for message in _messages(worker):
                token = message.get("token", token)
                reached = message.get("tokens", reached)
                if reached:
                    progress.update(reached)
                if reached >= kill_at:
                    time.sleep(0.02)  # Into the next token's forward pass.
                    worker.send_signal(signal.SIGKILL)
                    break
            killed = worker.wait() == -signal.SIGKILL
        if not killed or not token:
            raise WorkerFailed("the first client ended before it could be killed")
        progress.finish(f"killed after {reached} of {self._new_tokens} tokens")

        before = self._settled_tokens_written()
        progress = Progress("second client", self._new_tokens, "tokens")
        found: dict[str, Any] = {}
        with self._worker("resume") as worker:
            assert worker.stdin is not None
            worker.stdin.write(token + "\n")
            worker.stdin.close()
            for message in _messages(worker):
                found |= message
                if "tokens" in message:
                    progress.update(message["tokens"])
            if worker.wait() != 0 or "answers" not in found:
                raise WorkerFailed(f"the second client failed with exit code {worker.returncode}")
        progress.finish(f"found {found['found']} tokens, finished all")
        print(
            f"  the first one died inside a forward pass: {found['layers_ahead'][0]} of "
            f"{self._layers()} layers had the next token"
        )
        self._judge(found, self._tokens_written() - before)

    def _judge(self, found: dict[str, Any], written: int) -> None:
        layers = self._layers()
        again = [
            max(0, prompt - restart)
            for prompt, restart in zip(found["prompt_lengths"], found["restarts"], strict=True)
        ]
        accounted = written == found["written"] * layers
        same_text = found["answers"] == self._expected
        print(
            f"  the daemon's counter: {written} tokens written since the kill, "
            f"{written / layers:g} in each of {layers} layers; the prompts alone are "
            f"{sum(self._prompt_lengths)} in each"
        )
        print(
            f"  accounted for: {'yes' if accounted else 'no'} (the second client began at "
            f"tokens {found['restarts']}; {sum(again)} prompt tokens computed again)"
        )
        print(f"  tokens: {self._compare(found['answers'])}")
        self._outcome.resumed = (
            same_text
            and accounted
            and not any(again)
            and found["prompt_lengths"] == self._prompt_lengths
            and written < sum(self._prompt_lengths) * layers
        )

    def _layers(self) -> int:
        for cache in self._client.list_caches():
            if cache.name == generation.CACHE_NAME:
                return cache.geometry.num_layers
        raise WorkerFailed(f"the daemon has no cache {generation.CACHE_NAME!r} any more")

    def _worker(self, part: str, *flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "attnd.demo.worker", part, *flags]
        command += ["--address", self._client.address, "--model", str(self._path)]
        command += self._credentials.flags()
        source = str(Path(attnd.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    # The daemon's own figures.

    def _scrape(self) -> metrics.Scrape | None:
        return metrics.scrape(self._metrics_address) if self._metrics_address else None

    @staticmethod
    def _pages(scrape: metrics.Scrape | None, stats: Any) -> int:
        name = generation.CACHE_NAME
        used = scrape.total(_PAGES, state="used", cache=name) if scrape else None
        if used is None:
            used = sum(info.pages_used for info in stats.caches if info.name == name)
        return int(used)

    def _tokens_written(self) -> int:
        scrape = self._scrape()
        written = scrape.total(_TOKENS_WRITTEN) if scrape else None
        return int(written) if written is not None else self._client.stats().tokens_written_total

    def _settled_tokens_written(self) -> int:
        """The counter, once what the killed client had sent is done."""
        deadline_s = time.monotonic() + 5.0
        written = self._tokens_written()
        while time.monotonic() < deadline_s:
            time.sleep(0.1)
            last, written = written, self._tokens_written()
            if last == written:
                break
        return written


def _messages(worker: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("{"):
            yield json.loads(line)
