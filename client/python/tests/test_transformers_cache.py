# SPDX-License-Identifier: Apache-2.0
"""AttndCache in one's own hands: made of a client and a config, copied, gone, refused."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria

import attnd
from attnd.transformers import AttndCache, enable, register, wait_until_freed
from conftest import daemon_binary, start_real
from tiny_models import PROMPTS, llama, padded


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The matrices are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def eager() -> Any:
    return llama(seed=41)


@pytest.fixture(scope="module")
def ours(eager: Any) -> Any:
    register()
    model = copy.deepcopy(eager)
    model.set_attn_implementation("attnd")
    return model


def generate(model: Any, batch: dict[str, torch.Tensor], **flags: Any) -> Any:
    return model.generate(**batch, **({"max_new_tokens": 6, "do_sample": False} | flags))


def test_a_client_and_a_config_are_enough(client: attnd.Client, eager: Any, ours: Any) -> None:
    before = client.stats()
    cache = AttndCache(client, ours.config)
    result = generate(ours, padded(PROMPTS), past_key_values=cache)
    assert result.tolist() == generate(eager, padded(PROMPTS)).tolist()
    during = client.stats()
    assert during.sequences - before.sequences == len(PROMPTS)
    assert during.sessions - before.sessions == 1
    del cache, result
    gc.collect()
    assert wait_until_freed(30)
    after = client.stats()
    assert (after.sequences, after.sessions) == (before.sequences, before.sessions)


def test_the_dtype_is_that_of_the_keys(session: attnd.Session, ours: Any) -> None:
    half = copy.deepcopy(ours).to(torch.bfloat16)
    cache = AttndCache(session, half.config)
    generate(half, padded(PROMPTS[:1]), past_key_values=cache)
    assert "bfloat16" in cache.kv_cache.name


def test_one_prompt_goes_on_in_several_ways(client: attnd.Client, eager: Any, ours: Any) -> None:
    before = client.stats()
    prompt, ends = [*range(1, 40)], [[3, 4], [5], [6, 7, 8]]
    cache = AttndCache(client, ours.config)
    with torch.no_grad():
        ours(input_ids=torch.tensor([prompt]), past_key_values=cache)
    copies = [copy.deepcopy(cache) for _ in ends]
    session = cache.session
    del cache  # Its session lives on with the copies.
    gc.collect()
    assert wait_until_freed(30)
    for end, copied in zip(ends, copies, strict=True):
        batch = padded([[*prompt, *end]])
        got = generate(ours, batch, past_key_values=copied)
        assert got.tolist() == generate(eager, batch).tolist()
        assert copied.session is session
    del copies, copied
    gc.collect()
    assert wait_until_freed(30)
    after = client.stats()
    assert (after.sequences, after.sessions) == (before.sequences, before.sessions)


def test_rows_are_repeated_and_selected(session: attnd.Session, eager: Any, ours: Any) -> None:
    batch = padded(PROMPTS[:2])
    cache = AttndCache(session, ours.config)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        ours(**batch, position_ids=positions, past_key_values=cache)
        cache.batch_repeat_interleave(3)
        cache.batch_select_indices(torch.tensor([5, 0, 1]))
        mask = torch.cat(
            [batch["attention_mask"][[1, 0, 0]], torch.ones(3, 1, dtype=torch.long)], 1
        )
        positions = mask.sum(dim=1, keepdim=True) - 1
        new = torch.tensor([[9], [8], [7]])
        inputs = {"attention_mask": mask, "position_ids": positions}
        got = ours(input_ids=new, past_key_values=cache, **inputs).logits[:, -1]
        ids = torch.cat([batch["input_ids"][[1, 0, 0]], new], dim=1)
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        want = eager(input_ids=ids, **inputs).logits[:, -1]
    assert torch.allclose(got, want, atol=1e-5)
    assert [len(PROMPTS[1]) + 1, len(PROMPTS[0]) + 1, len(PROMPTS[0]) + 1] == cache.lengths


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kv_shared_layers": 1}, "num_kv_shared_layers: got 1"),
        (
            {"layer_types": ["linear_attention", "full_attention"]},
            r"layer_types: got \['linear_attention'\]",
        ),
    ],
)
def test_layers_without_keys_of_their_own_are_refused(
    session: attnd.Session, ours: Any, fields: dict[str, Any], message: str
) -> None:
    config = copy.deepcopy(ours.config)
    for name, value in fields.items():
        setattr(config, name, value)
    with pytest.raises(NotImplementedError, match=message):
        AttndCache(session, config)


def test_a_daemon_that_dies_in_the_middle_is_named(eager: Any) -> None:
    if not daemon_binary().is_file():
        pytest.skip(f"{daemon_binary()} is not built")
    with tempfile.TemporaryDirectory(prefix="attnd-", dir="/tmp") as folder:
        process, daemon = start_real(Path(folder))

        class KillDaemon(StoppingCriteria):
            def __call__(self, ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
                if ids.shape[1] == len(PROMPTS[0]) + 3:
                    process.kill()
                    process.wait()
                return torch.zeros(len(ids), dtype=torch.bool)

        try:
            with attnd.Client(daemon.address, timeout_s=2) as client:
                model = enable(copy.deepcopy(eager), client)
                with pytest.raises(attnd.AttndError) as raised:
                    generate(model, padded(PROMPTS[:1]), stopping_criteria=[KillDaemon()])
                assert isinstance(raised.value, attnd.Unavailable | attnd.DeadlineExceeded)
                assert daemon.address in str(raised.value)
                # And back again, without sessions or pages: the next text finds all it needs.
                (Path(folder) / "ready.json").unlink(missing_ok=True)
                process, _ = start_real(Path(folder))
                want = generate(eager, padded(PROMPTS[:1])).tolist()
                assert generate(model, padded(PROMPTS[:1])).tolist() == want
        finally:
            process.kill()
            process.wait()
