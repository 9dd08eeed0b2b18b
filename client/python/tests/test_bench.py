# SPDX-License-Identifier: Apache-2.0
"""attnd.bench: formulas, alternation, verification, a quick run on both daemons, bad flags."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from attnd import tensors
from attnd._proto import types_pb2
from attnd.bench import __main__ as bench
from attnd.bench import memory
from attnd.bench.cases import GUIDE_MEMORY_GB, Case
from attnd.bench.measure import alternate, quantile
from attnd.bench.peers import Inputs, prefill_peers
from attnd.bench.report import FIELDS, Report
from attnd.bench.runs import Calmest
from attnd.bench.verify import Error, WrongOutput, checked_rows, truth, verify
from conftest import Daemon, daemon_binary
from fake_daemon import FakeDaemon
from fake_state import Code

some_cases = st.builds(
    Case,
    phase=st.sampled_from(["prefill", "decode"]),
    dtype=st.sampled_from(["f32", "f16", "bf16"]),
    batch=st.integers(1, 9),
    heads=st.sampled_from([4, 8]),
    kv_heads=st.sampled_from([2, 4]),
    dim=st.integers(1, 256),
    tokens=st.integers(1, 80),
    causal=st.booleans(),
)


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The benchmark sets PyTorch's threads and seed for the process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@given(some_cases)
def test_work_is_what_a_count_of_the_pairs_gives(case: Case) -> None:
    queries = 1 if case.phase == "decode" else case.tokens
    position = np.arange(case.tokens - queries, case.tokens)[:, None]
    seen = np.arange(case.tokens)[None, :] <= position
    pairs = int(seen.sum()) if case.causal else queries * case.tokens
    assert case.pairs == pairs
    # A multiply and an add for each element of q k^T, and of the weights times v.
    assert case.flops == pairs * case.batch * case.heads * (2 * case.dim + 2 * case.dim)


@given(some_cases)
def test_a_case_is_found_by_its_name(case: Case) -> None:
    named = Case.parse(str(case))
    assert named is not None and str(named) == str(case)
    if case.phase == "prefill":
        assert named == case
    assert Case.parse("append 64 x 1") is None


def test_bytes_are_those_of_the_tensors() -> None:
    case = Case.prefill("f32", 64, causal=False)
    inputs = Inputs.fresh(case, "cpu")
    q, k, _ = inputs.heads_first()
    assert case.tensor_bytes == 4 * q.nbytes
    assert case.scores_bytes == (q @ k.transpose(-1, -2)).nbytes
    step = Case.decode("bf16", 33)
    inputs = Inputs.fresh(step, "cpu")
    assert step.kv_bytes == inputs.k.nbytes + inputs.v.nbytes
    assert inputs.q.shape == (4, 1, 32, 128)


def test_the_guides_gigabytes_are_megabytes_of_one_head() -> None:
    """What docs/benchmarks.md says of them."""
    for tokens, (standard_gb, _) in GUIDE_MEMORY_GB.items():
        assert round(tokens**2 * 4 / 1e6, 1) == standard_gb
        assert Case.prefill("f32", tokens, False).scores_bytes / 1e9 < standard_gb / 15


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(np.quantile(values, share), abs=1e-6)
    assert quantile(values, 0.5) == pytest.approx(statistics.median(values), abs=1e-6)


def test_runs_take_turns_and_the_first_changes() -> None:
    seen: list[str] = []

    def run(name: str, **parts: float) -> Any:
        return lambda: (seen.append(name), parts)[1]

    runs = {"a": run("a", x=3.0, y=1.0), "b": run("b", **{"": 2.0})}
    samples = alternate(runs, budget_s=0, least=4, warm=1)
    assert "".join(seen) == "ab" + "abbaabba"
    assert samples.rounds == 4
    assert samples.median("b") == 2.0 and samples.ratio("a.x", "b") == 1.5


@pytest.mark.parametrize("causal", [False, True])
def test_the_truth_is_the_references(causal: bool) -> None:
    case = Case("prefill", "f32", 2, 4, 2, 8, 100, causal)
    inputs = Inputs.fresh(case, "cpu")
    rows = checked_rows(case.tokens)
    assert {0, case.tokens - 1} <= set(rows.tolist()) and len(rows) < case.tokens
    options = types_pb2.AttentionOptions(causal=causal)
    got = truth(case, inputs, rows)
    for q, k, v, out in zip(inputs.q, inputs.k, inputs.v, got, strict=True):
        arrays = (reference.widen(x.numpy(), tensors.F32) for x in (q, k, v))
        want, _ = reference.attention(*arrays, start=0, options=options)
        np.testing.assert_allclose(out.numpy(), want[rows.numpy()], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrong", ["nan", "one value", "a row of another head"])
def test_a_wrong_output_is_never_timed(wrong: str) -> None:
    case = Case("prefill", "f32", 1, 4, 4, 8, 32, True)
    inputs = Inputs.fresh(case, "cpu")
    peers = prefill_peers(case, inputs)
    report = Report({}, None)
    names = {peer: peer for peer in peers}

    def output() -> torch.Tensor:
        out = peers["standard"]().transpose(1, 2).clone()
        if wrong == "nan":
            out[0, 31, 3, 7] = float("nan")
        elif wrong == "one value":
            out[0, 5, 1, 2] += 0.01
        else:
            out[0, 9, 0] = out[0, 9, 1]
        return out

    with pytest.raises(WrongOutput, match="attnd is off by"):
        verify(case, inputs, output, peers, names, report)


def test_a_peer_that_does_not_run_costs_only_itself() -> None:
    case = Case("prefill", "f32", 1, 2, 2, 8, 16, False)
    inputs = Inputs.fresh(case, "cpu")
    peers = prefill_peers(case, inputs)

    def broken() -> torch.Tensor:
        raise RuntimeError("no kernel\nfor this")

    report = Report({}, None)
    offered = {"broken": broken, **peers}
    usable = verify(
        case,
        inputs,
        lambda: peers["sdpa"]().transpose(1, 2),
        offered,
        dict.fromkeys(offered, "x"),
        report,
    )
    assert set(usable) == set(peers)
    assert report.failures == [f"{case}, x: no kernel"]
    assert {row["metric"] for row in report.rows} == {"relative_l2_error", "max_abs_error"}


def test_an_error_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"out: got shape \[2\], expected \[3\]"):
        Error.of(torch.zeros(2), torch.zeros(3))


def test_a_quick_run_measures_every_row(daemon: Daemon, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "results" / "pybench.json"
    flags = ["--quick", "--budget_s=0", "--tokens=16,48", "--cases=speedup,decode"]
    assert bench.main([*flags, f"--address={daemon.address}", f"--json={path}"]) == 0
    out, err = capfd.readouterr()
    assert "whole call" in out and "[6/6]" in err  # A table, and plain progress: no terminal.

    results = json.loads(path.read_text())
    head, rows = results["head"], results["rows"]
    assert {"hardware", "command", "date", "commit", "daemon", "ceilings"} <= head.keys()
    assert "failures" not in head
    assert all(list(row) == list(FIELDS) for row in rows)
    prefills = {str(Case.prefill("f32", n, c)) for n in (16, 48) for c in (False, True)}
    decodes = {str(Case.decode("bf16", n)) for n in (16, 48)}
    measured = {
        metric: {row["case"] for row in rows if row["metric"] == metric}
        for metric in {row["metric"] for row in rows}
    }
    everything = prefills | decodes
    for metric in ("relative_l2_error", "kernel_time", "call_time_p90", "daemon_overhead"):
        assert measured[metric] == everything, metric
    assert measured["flop_rate"] == measured["speedup_over_standard"] == prefills
    assert measured["kv_read_rate"] == decodes
    for row in rows:
        assert row["ours"] >= 0 or row["metric"].startswith(("daemon_overhead", "transport")), row
        if row["metric"] in ("flop_rate", "kv_read_rate"):
            assert row["of_ceiling"] == pytest.approx(row["ours"] / row["ceiling"])
            assert row["ceiling"] > 0 and row["ratio"] > 0
        if row["metric"] == "kernel_time":
            call = next(r for r in rows if r["metric"] == "call_time" and r["case"] == row["case"])
            assert 0 < row["ours"] < call["ours"]


def test_a_case_that_fails_loses_no_other(fake: FakeDaemon, tmp_path: Path) -> None:
    path = tmp_path / "pybench.json"
    fake.fail_next("FlashAttention", Code.INTERNAL)
    flags = ["--quick", "--budget_s=0", "--tokens=16", "--cases=speedup"]
    assert bench.main([*flags, f"--address={fake.address}", f"--json={path}"]) == 1
    results = json.loads(path.read_text())
    (failure,) = results["head"]["failures"]
    assert failure.startswith(f"{Case.prefill('f32', 16, False)}: ") and "made to fail" in failure
    assert {row["case"] for row in results["rows"]} == {str(Case.prefill("f32", 16, True))}


def test_memory_that_the_machine_lacks_is_left_out_and_said(
    monkeypatch: Any, daemon: Daemon, tmp_path: Path, capfd: Any
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 20)
    path = tmp_path / "pybench.json"
    flags = ["--cases=memory", "--tokens=1024", f"--address={daemon.address}", f"--json={path}"]
    assert bench.main(flags) == 0
    (left_out,) = json.loads(path.read_text())["head"]["left_out"]
    assert left_out.endswith("standard attention needs 576 MiB, 1 are available")
    assert left_out in capfd.readouterr().out


def test_a_place_that_cannot_be_written_is_an_error_at_once(fake: FakeDaemon, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        bench.main([f"--address={fake.address}", "--json=/proc/nowhere/x.json"])
    assert "--json, --plots: cannot be written" in capsys.readouterr().err
    assert "FlashAttention" not in fake.calls


def test_of_several_passes_the_calmest_is_kept() -> None:
    calmest = Calmest()
    for name, ceiling, rows in (
        ("a", 1.0, [{"ours": 1}]),
        ("b", 5.0, [{"ours": 2}, {"ours": 3}]),
        ("a", 2.0, [{"ours": 4}]),  # Calmer than before.
        ("b", 4.0, [{"ours": 9}]),  # Faster, but the machine was not calmer.
        ("a", 0.0, []),  # Failed.
        ("c", 0.0, [{"ours": 5}]),
    ):
        calmest.offer(name, ceiling, rows)
    assert [row["ours"] for row in calmest.rows()] == [4, 2, 3, 5]


def test_standard_attention_takes_what_the_formula_says() -> None:
    case = Case.prefill("f32", 512, causal=False)
    found = memory.in_child(case, "standard", "cpu", 1)
    assert found["process"] == pytest.approx(case.standard_bytes, rel=0.1)


def test_memory_of_a_served_call_is_counted_in_both_processes() -> None:
    if not daemon_binary().is_file():
        pytest.skip(f"{daemon_binary()} is not built")
    case = Case.prefill("f32", 256, causal=False)
    found = memory.in_child(case, "attnd", "cpu", 1)
    assert found["process"] > case.tensor_bytes
    assert found["daemon"] > case.tensor_bytes * 3 / 4  # q, k and v at least.


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--cases=speedup,bogus"], "got 'bogus', expected some of speedup,decode,memory"),
        (["--dtypes=f64"], "got 'f64', expected some of f32,f16,bf16"),
        (["--tokens=12,many"], "got '12,many', expected lengths of 2 to 131072 tokens"),
        (["--tokens=1"], "expected lengths of 2"),
        (["--threads=0"], "--threads: got 0, expected 1 to"),
        (["--passes=0"], "--passes: got 0, expected at least 1"),
        (["--budget_s=-1"], "--budget_s: got -1.0, expected at least 0"),
        (["plot", "/nowhere/x.json", "--out=/tmp"], "/nowhere/x.json"),
        (["table", __file__], "no JSON"),
        (["plot", "x.json"], "--out"),
    ],
)
def test_bad_flags_say_what_was_expected(flags: list[str], says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        bench.main(flags)
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_an_error(capsys: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        bench.main(["--device=cuda"])
    assert "--device: got cuda, but this PyTorch finds no GPU" in capsys.readouterr().err


def test_no_daemon_at_the_address_is_an_error(tmp_path: Path, capsys: Any) -> None:
    assert bench.main([f"--address=unix:{tmp_path}/nobody.sock", "--quick"]) == 2
    assert "nobody.sock" in capsys.readouterr().err
