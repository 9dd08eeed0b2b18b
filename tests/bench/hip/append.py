# SPDX-License-Identifier: Apache-2.0
"""Appending keys and values to pages: checked bit for bit, timed, and timed in a captured graph."""

import dataclasses

import torch

import timing
from problem import ROTATED_BYTES

KV_HEADS, DIM, PAGE = 8, 128, 16
# Launches in one graph: enough that what starting a graph takes is little of each.
LAUNCHES = 16


@dataclasses.dataclass
class Result:
    name: str
    right: bool
    rate: float  # TB/s, read and written
    peer_rate: float  # of one copy of as many bytes
    graph_us: float


class _Set:
    """`batch` sequences in one pool that each get `tokens` more behind 1000 of their own."""

    def __init__(self, library, batch, tokens, device):
        self.old = 1000
        pages_of_item = -(-(self.old + tokens) // PAGE)
        count = batch * pages_of_item
        self.pages = torch.randn(count, 2, KV_HEADS, PAGE, DIM, device=device,
                                 dtype=torch.bfloat16)
        self.table = torch.randperm(count).view(batch, pages_of_item)
        self.k, self.v = (torch.randn(batch * tokens, KV_HEADS, DIM, device=device,
                                      dtype=torch.bfloat16) for _ in range(2))
        self.batch, self.tokens = batch, tokens
        self.case = library.case(
            pages=self.pages, page_table=self.table.tolist(), new_k=self.k, new_v=self.v,
            query_lens=[tokens] * batch, kv_lens=[self.old + tokens] * batch,
            query_heads=4 * KV_HEADS, causal=True)

    def expected(self, pages):
        """`pages` with the new keys and values written where they belong."""
        pages = pages.clone()
        positions = torch.arange(self.old, self.old + self.tokens)
        page = self.table[:, positions // PAGE].flatten().to(pages.device)
        slot = (positions % PAGE).repeat(self.batch).to(pages.device)
        pages[page, 0, :, slot] = self.k
        pages[page, 1, :, slot] = self.v
        return pages


def is_right(library, work):
    """Whether one launch writes the new rows, and nothing else."""
    want = work.expected(work.pages)
    work.case.launch()
    library.wait()
    return torch.equal(work.pages.view(torch.int16), want.view(torch.int16))


def measure(library, batch, tokens, budget_s, device="cuda"):
    size = 2 * batch * tokens * KV_HEADS * DIM * 2
    count = min(LAUNCHES, max(2, ROTATED_BYTES // (2 * size)))
    sets = [_Set(library, batch, tokens, device) for _ in range(count)]
    right = all([is_right(library, work) for work in sets])
    sources = [torch.randn(size // 2, device=device).bfloat16() for _ in range(count)]
    targets = [torch.empty_like(source) for source in sources]
    ours, peer = timing.medians_ms(
        [lambda turn: sets[turn % count].case.launch(),
         lambda turn: targets[turn % count].copy_(sources[turn % count])], budget_s)
    for work in sets:
        work.case.free()
    return Result(name=f"append bf16 b={batch} h={KV_HEADS} d={DIM} n={tokens}", right=right,
                  rate=2 * size / ours / 1e9, peer_rate=2 * size / peer / 1e9,
                  graph_us=_in_graph_us(library, batch, tokens, budget_s, device))


def _in_graph_us(library, batch, tokens, budget_s, device):
    """The time of a launch among LAUNCHES in a captured graph.

    A launcher of its own, with room for them all and as many before: what a graph was captured from
    stays as it is until the graph goes.
    """
    launcher = type(library)(library.path, launches=2 * LAUNCHES)
    stream = torch.cuda.ExternalStream(launcher.stream)
    with torch.cuda.stream(stream):
        sets = [_Set(launcher, batch, tokens, device) for _ in range(LAUNCHES)]
        for work in sets:
            work.case.launch()
        graph = timing.graph_of([work.case.launch for work in sets], stream)
        ms, = timing.medians_ms([lambda _: graph.replay()], budget_s)
        torch.cuda.synchronize()
    del graph
    for work in sets:
        work.case.free()
    launcher.close()
    return ms * 1e3 / LAUNCHES
