# SPDX-License-Identifier: Apache-2.0
"""What the GPU benchmark checks before it measures, on the CPU backend: there it must find nothing,
and everything that is broken on purpose."""

import math
import os
import pathlib
import sys

import pytest
import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import append  # noqa: E402
from library import Library  # noqa: E402
from problem import Problem, Shape, check, checked_rows, relative_l2  # noqa: E402

BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


@pytest.fixture(scope="module")
def library():
    bin_dir = os.environ.get("ATTND_BIN_DIR", HERE.parents[2] / "build/release/bin")
    path = pathlib.Path(bin_dir).parent / "bench/lib/libattnd_cpu_bench.so"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    library = Library(path)
    yield library
    library.close()


SHAPES = [
    Shape(batch, tokens, queries, 4, 2, 64, dtype, causal, page_size)
    for dtype in BOUNDS
    for batch, tokens, queries, causal, page_size in (
        (3, 77, 1, True, 16), (2, 300, 300, True, 16), (2, 64, 64, False, 64))
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_match_fp64_and_a_peer(library, shape):
    problem = Problem(shape, library, "cpu", sets=2)
    for turn in range(2):
        problem.launch(turn)
        library.wait()
        s = problem.buffers(turn)
        peer = F.scaled_dot_product_attention(
            s.q, s.k, s.v, is_causal=shape.causal and shape.queries > 1, enable_gqa=True)
        ours, theirs = check(problem, turn, peer)
        assert ours <= BOUNDS[shape.dtype]
        assert theirs <= BOUNDS[shape.dtype]
    problem.free()


def test_an_output_that_is_wrong_or_missing_is_found(library):
    shape = Shape(1, 300, 300, 4, 2, 64, torch.float32, True)
    problem = Problem(shape, library, "cpu", sets=1)
    assert check(problem)[0] == math.inf, "nothing has run yet"
    problem.launch(0)
    library.wait()
    right = problem.buffers(0).out(shape).clone()
    assert check(problem, 0, right)[0] <= 1e-6
    hidden = sorted(set(range(300)) - set(checked_rows(shape, "cpu").tolist()))[0]
    for row, value in ((0, 3.0), (299, 3.0), (hidden, math.nan)):
        problem.buffers(0).our_out.view(300, 4, 64)[row, 1, 2] = value
        assert check(problem)[0] > 1e-6, row
        problem.launch(0)
        library.wait()
    # One row far from a peer's is found, whichever rows fp64 looks at.
    problem.buffers(0).our_out.view(300, 4, 64)[hidden, 1] *= -1
    assert check(problem, 0, right)[0] == math.inf
    problem.free()


@pytest.mark.parametrize(("batch", "tokens"), [(5, 1), (1, 100)])
def test_appends_are_checked_bit_for_bit(library, batch, tokens):
    work = append._Set(library, batch, tokens, "cpu")
    assert append.is_right(library, work)
    before = work.pages.clone()
    want = work.expected(before)
    assert torch.equal(want.view(torch.int16), before.view(torch.int16)), "it was there already"
    work.k[0, 0, 0] += 1
    changed = work.expected(before) != before
    assert int(changed.sum()) == 1
    # Sources that change after the expectation is made: what the launch writes is then wrong.
    expected = work.expected
    work.expected = lambda pages: (expected(pages), work.v.add_(1))[0]
    assert not append.is_right(library, work)
    work.case.free()


def test_what_cannot_run_says_why(library):
    with pytest.raises(RuntimeError, match="UNIMPLEMENTED"):
        Problem(Shape(1, 16, 16, 1, 1, 4096, torch.float32, False), library, "cpu", sets=1)


def test_work_is_counted_by_the_stated_formula():
    shape = Shape(2, 10, 10, 4, 2, 64, torch.bfloat16, True)
    assert shape.flops == 4 * 64 * 4 * 2 * 55
    assert shape.kv_bytes == 2 * 2 * 10 * 2 * 64 * 2
    decode = Shape(2, 10, 1, 4, 2, 64, torch.bfloat16, True)
    assert decode.flops == 4 * 64 * 4 * 2 * 10
    assert relative_l2(torch.tensor([1.0, math.nan]), torch.ones(2)) == math.inf
