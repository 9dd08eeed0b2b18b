# SPDX-License-Identifier: Apache-2.0
"""Workloads: pages in random order for us, the same keys and values in one piece for the peers."""

import dataclasses
import math

import torch

# A set of buffers that one launch touches is used again only after this much else was: more than
# any L2 holds.
ROTATED_BYTES = 192 << 20
# Query rows of an item that are compared with fp64; all of them are compared with a peer.
CHECKED_ROWS = 128


@dataclasses.dataclass(frozen=True)
class Shape:
    """batch items of `queries` new tokens at the end of `tokens` keys."""

    batch: int
    tokens: int
    queries: int
    heads: int
    kv_heads: int
    dim: int
    dtype: torch.dtype
    causal: bool
    page_size: int = 16  # tokens of them all: dense, as the peers have it

    def __str__(self):
        kind = "decode" if self.queries == 1 else "prefill"
        name = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[self.dtype]
        pages = "dense" if self.page_size == self.tokens else f"pages={self.page_size}"
        causal = " causal" if self.causal and self.queries > 1 else ""
        return (f"{kind} {name} b={self.batch} h={self.heads}/{self.kv_heads} d={self.dim} "
                f"n={self.tokens} {pages}{causal}")

    @property
    def flops(self):
        """4 dim for each pair of a query and a key that it sees."""
        first = self.tokens - self.queries + 1
        pairs = (first + self.tokens) * self.queries / 2 if self.causal else (
            self.queries * self.tokens)
        return 4.0 * self.dim * self.heads * self.batch * pairs

    @property
    def kv_bytes(self):
        """Keys and values, once."""
        return 2 * self.batch * self.tokens * self.kv_heads * self.dim * self.dtype.itemsize

    @property
    def tensor_bytes(self):
        """Queries, keys, values and outputs, once."""
        return self.kv_bytes + (
            2 * self.batch * self.queries * self.heads * self.dim * self.dtype.itemsize)

    @property
    def pages_of_item(self):
        return -(-self.tokens // self.page_size)


class BufferSet:
    """The tensors of one launch, ours and the peers', of the same numbers."""

    def __init__(self, shape, device):
        count = shape.batch * shape.pages_of_item
        self.pages = torch.randn(count, 2, shape.kv_heads, shape.page_size, shape.dim,
                                 device=device, dtype=shape.dtype)
        self.page_table = torch.randperm(count).view(shape.batch, shape.pages_of_item)
        self.q = torch.randn(shape.batch, shape.heads, shape.queries, shape.dim, device=device,
                             dtype=shape.dtype)
        self.k, self.v = (self._in_one_piece(shape, part) for part in (0, 1))
        # What no token fills is never to be read.
        filled = shape.tokens - (shape.pages_of_item - 1) * shape.page_size
        self.pages[self.page_table[:, -1].to(device), :, :, filled:] = math.nan
        # [tokens, heads, dim], poisoned.
        self.our_q = self.q.transpose(1, 2).reshape(-1, shape.heads, shape.dim).contiguous()
        self.our_out = torch.full_like(self.our_q, math.nan)

    def _in_one_piece(self, shape, part):
        """[batch, kv_heads, tokens, dim] out of the pages."""
        table = self.page_table.flatten().to(self.pages.device)
        pages = self.pages[:, part][table].view(shape.batch, shape.pages_of_item, shape.kv_heads,
                                                shape.page_size, shape.dim)
        whole = pages.transpose(1, 2).reshape(shape.batch, shape.kv_heads, -1, shape.dim)
        return whole[:, :, :shape.tokens].contiguous()

    def out(self, shape):
        """Our output as the peers lay theirs out: [batch, heads, queries, dim]."""
        return self.our_out.view(shape.batch, shape.queries, shape.heads, shape.dim).transpose(1, 2)


class Problem:
    """A shape with enough sets of buffers that none is in a cache when its turn comes."""

    def __init__(self, shape, library, device="cuda", sets=None):
        if sets is None:
            sets = min(16, max(1, -(-ROTATED_BYTES // shape.tensor_bytes)))
        self.shape = shape
        self.sets = [BufferSet(shape, device) for _ in range(sets)]
        self.cases = [
            library.case(pages=s.pages, page_table=s.page_table.tolist(), q=s.our_q, out=s.our_out,
                         query_lens=[shape.queries] * shape.batch,
                         kv_lens=[shape.tokens] * shape.batch,
                         query_heads=shape.heads, causal=shape.causal)
            for s in self.sets]

    def launch(self, turn):
        self.cases[turn % len(self.cases)].launch()

    def buffers(self, turn):
        return self.sets[turn % len(self.sets)]

    def free(self):
        for case in self.cases:
            case.free()
        self.cases, self.sets = [], []


def reference(shape, q, k, v, rows):
    """fp64 attention of these query rows, [batch, heads, len(rows), dim], item by item."""
    group = shape.heads // shape.kv_heads
    positions = shape.tokens - shape.queries + rows[:, None]
    hidden = torch.arange(shape.tokens, device=q.device)[None, :] > positions
    out = []
    for item in range(shape.batch):
        keys, values = k[item].double(), v[item].double()
        queries = q[item][:, rows].double().view(shape.kv_heads, group * len(rows), shape.dim)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(shape.dim)
        if shape.causal:
            scores.masked_fill_(hidden.repeat(group, 1), -math.inf)
        item_out = torch.softmax(scores, -1) @ values
        out.append(item_out.view(shape.heads, len(rows), shape.dim))
    return torch.stack(out)


def checked_rows(shape, device):
    """Query rows to compare with fp64: all, or the first, the last and random ones."""
    if shape.queries <= CHECKED_ROWS:
        return torch.arange(shape.queries, device=device)
    some = torch.randperm(shape.queries)[:CHECKED_ROWS - 32]
    edges = torch.cat([torch.arange(16), torch.arange(shape.queries - 16, shape.queries)])
    return torch.cat([some, edges]).unique().to(device)


def relative_l2(got, want):
    """inf where anything is not finite."""
    error = float((got.double() - want.double()).norm() / want.double().norm())
    return error if math.isfinite(error) else math.inf


def worst_row(got, want):
    """The largest relative L2 of any [dim]; inf where anything is not finite."""
    got, want = got.float(), want.float()
    error = float(((got - want).norm(dim=-1) / want.norm(dim=-1)).max())
    return error if math.isfinite(error) else math.inf


# How far a row may be from a peer's, both rounded: what only rounding cannot explain.
PEER_ROW_BOUND = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def check(problem, turn=0, peer_out=None):
    """Relative L2 of our output against fp64 by checked_rows, and every row against a peer's.

    Returns (our error, the peer's error or None); our error is inf where a row is far from the
    peer's. The outputs must have been computed.
    """
    shape, buffers = problem.shape, problem.buffers(turn)
    out = buffers.out(shape)
    rows = checked_rows(shape, out.device)
    want = reference(shape, buffers.q, buffers.k, buffers.v, rows)
    ours = relative_l2(out[:, :, rows], want)
    if not bool(torch.isfinite(out).all()):
        ours = math.inf
    if peer_out is None:
        return ours, None
    if worst_row(out, peer_out) > PEER_ROW_BOUND[shape.dtype]:
        ours = math.inf
    return ours, relative_l2(peer_out[:, :, rows], want)
