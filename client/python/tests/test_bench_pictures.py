# SPDX-License-Identifier: Apache-2.0
"""attnd.bench: pictures and tables of results, drawn from rows that the test makes up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from attnd.bench import __main__ as bench
from attnd.bench import page, plots, progress, tables
from attnd.bench.cases import DECODE_TOKENS, GUIDE_TOKENS, MEMORY_TOKENS, Case
from attnd.bench.report import GUIDE, BadResults, Report, Results
from conftest import REPOSITORY, SOURCE

PICTURES = ("speedup", "tflops", "memory", "overhead", "decode")
STANDARD, SDPA = "PyTorch standard (matmul)", "PyTorch scaled_dot_product_attention"


@pytest.fixture
def results_file(tmp_path: Path) -> Path:
    """Rows of every metric, with times that grow as the work does."""
    path = tmp_path / "made_up.json"
    head = {"hardware": "Made up, 2 CPUs", "date": "2026-01-02T03:04:05Z", "threads": 2}
    report = Report(head, path)
    prefills = [Case.prefill("f32", n, c) for c in (False, True) for n in GUIDE_TOKENS]
    for case in [*prefills, *(Case.decode("bf16", n) for n in DECODE_TOKENS)]:
        ms = 1 + case.flops / 4e8
        for part, factor in (("kernel", 1.0), ("call", 3.0)):
            for suffix, spread in (("", 1.0), ("_p10", 0.9), ("_p90", 1.2)):
                for name, slower in ((STANDARD, 4.0), (SDPA, 1.5)):
                    report.add(
                        case,
                        f"{part}_time{suffix}",
                        "ms",
                        ms * factor * spread,
                        peer=ms * slower * spread,
                        peer_name=name,
                        ratio=slower / factor,
                    )
                    if part == "kernel" and not suffix:
                        rate = case.flops / ms / 1e6
                        more: Any = {"peer": rate / slower, "peer_name": name, "ratio": slower}
                        metric = "flop_rate" if case.phase == "prefill" else "kv_read_rate"
                        report.add(case, metric, "G/s", rate, **more, ceiling=1000.0)
        for part in ("stage_in", "queue", "stage_out", "transport"):
            report.add(case, f"{part}_time", "ms", ms / 2)
        for suffix in ("", "_p10", "_p90"):
            report.add(case, f"daemon_overhead{suffix}", "ms", 2 * ms)
        if case.phase == "prefill":
            report.add(case, "speedup_over_standard", "1", 4.0, peer=2.0, peer_name=GUIDE)
            report.add(case, "call_speedup_over_standard", "1", 4 / 3)
    for case in (Case.prefill("f32", n, False) for n in MEMORY_TOKENS):
        for name, peer in ((STANDARD, case.standard_bytes), (SDPA, case.tensor_bytes)):
            ours = 3 * case.tensor_bytes / 2**20
            report.add(case, "peak_memory", "MiB", ours, peer=peer / 2**20, peer_name=name)
        report.add(case, "memory_saved", "1", 0.5, peer=0.74, peer_name=GUIDE, ceiling=0.9)
    report.save()
    return path


def test_every_picture_is_drawn_without_torch(results_file: Path, tmp_path: Path) -> None:
    """In a process that cannot import torch: a machine that draws need not have it."""
    folder = tmp_path / "pictures"
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from attnd.bench.__main__ import main\n"
        f"sys.exit(main(['plot', {str(results_file)!r}, '--out', {str(folder)!r}]))"
    )
    subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(SOURCE)}, check=True
    )
    for name in PICTURES:
        png, svg = ((folder / f"{name}.{suffix}").read_bytes() for suffix in ("png", "svg"))
        assert png.startswith(b"\x89PNG") and len(png) > 10_000
        # A line or bar of every series is a path of the drawing.
        root = ElementTree.fromstring(svg)
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 20
        assert max(len(png), len(svg)) < 150_000


@pytest.mark.parametrize(("device", "alone"), [("cpu", False), ("cuda", True)])
def test_kernels_alone_are_a_series_of_their_own_on_a_gpu(
    results_file: Path, device: str, alone: bool
) -> None:
    """Rows of gpu_bench.json, kept in tests/results, are drawn beside a GPU's and no CPU's."""
    kept = REPOSITORY / "tests" / "results" / "h100" / "gpu_bench.json"
    results = Results.load(results_file, kept)
    results.head["device"] = device
    for picture in (plots.speedup, plots.tflops):
        figure = picture(results)
        assert figure is not None
        labels = {text.get_text() for text in figure.legends[0].get_texts()}
        assert {"attnd: kernel in the daemon", "PyTorch SDPA"} < labels
        assert ("attnd: kernel alone, in device memory" in labels) == alone
        for axes in figure.axes:
            assert axes.get_xlabel() == "tokens" and axes.get_xscale() == "log"
        assert results.head["hardware"] in figure.get_suptitle()


def test_tables_hold_what_the_rows_say(results_file: Path, capsys: Any) -> None:
    assert bench.main(["table", str(results_file)]) == 0
    text = capsys.readouterr().out
    assert text.count("### ") == 8
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| 2048 ")}
    assert len(widths) > 1 and "**4.00x**" in text and "4.2 GB, 1.1 GB, 74%" in text
    for block in text.split("### ")[1:]:
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) == 1, block


def test_the_page_shows_the_results_that_are_kept() -> None:
    """docs/benchmarks.md has the tables of tests/results, word for word."""
    path = REPOSITORY / "docs" / "benchmarks.md"
    text = path.read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- results: ([\w.-]+) -->\n(.*?)<!-- end -->", text, re.DOTALL))
    assert "xeon-amx-2cpu" in shown
    for name, found in shown.items():
        kept = REPOSITORY / "tests" / "results" / name / "pybench.json"
        if not found.strip():
            assert not kept.exists(), f"{kept} is not shown: run table --into"
            continue
        assert found.strip() == page.section(path, name, Results.load(kept)).strip(), name
        assert len(re.findall(rf"\]\(images/{name}/\w+\.svg\)", found)) == len(PICTURES)
        for picture in PICTURES:
            assert (path.parent / "images" / name / f"{picture}.svg").stat().st_size < 150_000


def test_a_page_without_a_place_is_refused(results_file: Path, capsys: Any) -> None:
    where = results_file.with_name("page.md")
    place = f"<!-- results: {results_file.parent.name} -->\nold\n<!-- end -->\nafter\n"
    where.write_text(f"before\n{place}")
    assert bench.main(["table", str(results_file), f"--into={where}"]) == 0
    text = where.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n")
    assert "### Speed-up" in text and "old" not in text
    where.write_text("nothing\n")
    with pytest.raises(SystemExit):
        bench.main(["table", str(results_file), f"--into={where}"])
    assert "expected a line <!-- results:" in capsys.readouterr().err


def test_what_was_not_measured_is_left_out(tmp_path: Path, capsys: Any) -> None:
    report = Report({"hardware": "h"}, tmp_path / "r.json")
    case = Case.prefill("f32", 128, False)
    report.add(case, "relative_l2_error", "1", 1e-7)
    report.fail("a case", "it broke\nin two lines")
    report.save()
    results = Results.load(tmp_path / "r.json")
    assert "- a case: it broke" in tables.everything(results)
    assert bench.main(["plot", str(tmp_path / "r.json"), f"--out={tmp_path}"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [("[]", "expected an object"), ("{", "no JSON"), (None, "has no of_ceiling")],
)
def test_a_file_of_another_form_is_named(
    results_file: Path, content: str | None, says: str
) -> None:
    if content is None:
        data = json.loads(results_file.read_text())
        del data["rows"][3]["of_ceiling"]
        content = json.dumps(data)
    results_file.write_text(content)
    with pytest.raises(BadResults, match=says) as error:
        Results.load(results_file)
    assert str(results_file) in str(error.value)


def test_progress_without_rich_is_plain(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich", None)
    with progress.Progress(2) as shown:
        shown.start("one")
        shown.note("found")
        shown.start("two")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("[1/2]") and lines[1] == "    found" and lines[2].endswith("two")


def test_progress_on_a_terminal_is_a_bar(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Progress(1) as shown:
        shown.start("[bold]measured[/bold]")
        shown.note("found [so much]")
    err = capsys.readouterr().err
    assert "found [so much]" in err and "1/1" in err
