# SPDX-License-Identifier: Apache-2.0
"""How the cases of each group are measured and written down as rows.

Each method verifies a case, measures it in alternation, and returns the median of its ceiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

import attnd
from attnd.bench import memory
from attnd.bench.cases import GUIDE_SPEEDUPS, Case, claimed_saving
from attnd.bench.ceilings import Ceilings
from attnd.bench.measure import Samples, alternate
from attnd.bench.peers import (
    STANDARD,
    Inputs,
    decode_peers,
    prefill_peers,
    sdpa_name,
    seconds_of,
)
from attnd.bench.plan import Plan
from attnd.bench.report import GUIDE, Report
from attnd.bench.served import PARTS, Decode, Prefill
from attnd.bench.verify import verify

# A ceiling takes about a fifth of a second to sample.
_CEILING_EVERY_S = 0.7
_STATISTICS = (("", Samples.median), ("_p10", Samples.p10), ("_p90", Samples.p90))


class Groups:
    """Measures cases of a plan against one daemon.

    Args:
        note: gets a line on what was found.
    """

    def __init__(
        self,
        plan: Plan,
        client: attnd.Client,
        ceilings: Ceilings,
        report: Report,
        note: Callable[[str], None],
    ) -> None:
        self._plan, self._client, self._ceilings, self._report = plan, client, ceilings, report
        self._note = note

    def prefill(self, case: Case) -> float:
        """A row of a speed-up table; the ceiling is in FLOP/s."""
        inputs = Inputs.fresh(case, self._plan.device)
        ours = Prefill(self._client, case, inputs)
        names = {
            "standard": f"PyTorch {torch.__version__} {STANDARD}",
            "sdpa": sdpa_name(case.dtype, self._plan.device),
        }
        offered = prefill_peers(case, inputs)
        peers = verify(case, inputs, ours.output, offered, names, self._report)
        samples, ceiling = self._sample(case, ours.run, peers)
        for peer in peers:
            self._times(case, samples, peer, names[peer])
            self._report.add(
                case,
                "flop_rate",
                "GFLOP/s",
                case.flops / samples.median("ours.kernel") / 1e9,
                peer=case.flops / samples.median(peer) / 1e9,
                peer_name=names[peer],
                ratio=samples.ratio(peer, "ours.kernel"),
                ceiling=ceiling / 1e9,
            )
        if "standard" in peers:
            self._claims(case, samples)
        self._finish(case, samples, {peer: peer for peer in peers})
        return ceiling

    def _claims(self, case: Case, samples: Samples) -> None:
        claim = GUIDE_SPEEDUPS[case.causal].get(case.tokens)
        for part, metric in (("kernel", "speedup"), ("call", "call_speedup")):
            ours = samples.ratio("standard", f"ours.{part}")
            self._report.add(
                case,
                f"{metric}_over_standard",
                "1",
                ours,
                peer=claim.speedup if claim else None,
                peer_name=GUIDE if claim else None,
                ratio=ours / claim.speedup if claim else None,
            )

    def decode(self, case: Case) -> float:
        """A step from the page cache; the ceiling is in bytes/s."""
        inputs = Inputs.fresh(case, self._plan.device)
        name = sdpa_name(case.dtype, self._plan.device)
        offered = decode_peers(case, inputs)
        names = {peer: f"{name}, {peer}" for peer in offered}
        with Decode(self._client, case, inputs) as ours:
            peers = verify(case, inputs, ours.output, offered, names, self._report)
            samples, ceiling = self._sample(case, ours.run, peers)
        best = min(peers, key=samples.median)
        self._times(case, samples, best, names[best])
        self._report.add(
            case,
            "kv_read_rate",
            "GB/s",
            case.kv_bytes / samples.median("ours.kernel") / 1e9,
            peer=case.kv_bytes / samples.median(best) / 1e9,
            peer_name=names[best],
            ratio=samples.ratio(best, "ours.kernel"),
            ceiling=ceiling / 1e9,
        )
        self._finish(case, samples, {"sdpa": best})
        return ceiling

    def memory(self, case: Case) -> float:
        """A row of the memory table, which has no ceiling: 0."""
        plan = self._plan
        needed, free = case.standard_bytes, memory.available_bytes(plan.device)
        if needed > 0.9 * free:
            why = f"standard attention needs {needed >> 20} MiB, {free >> 20} are available"
            self._report.leave_out(f"memory of {case}", why)
            self._note(f"left out: {why}")
            return 0.0
        self._ceilings.release()
        found = {
            method: memory.measure(case, method, plan.device, plan.threads)
            for method in memory.METHODS
        }
        on_gpu = plan.device == "cuda"
        total = {
            method: parts["device"] if on_gpu else sum(parts.values())
            for method, parts in found.items()
        }
        saved = {peer: 1 - total["attnd"] / total[peer] for peer in ("standard", "sdpa")}
        for peer, name in (
            ("standard", f"PyTorch {torch.__version__} {STANDARD}"),
            ("sdpa", sdpa_name(case.dtype, plan.device)),
        ):
            self._report.add(
                case,
                "peak_memory",
                "MiB",
                total["attnd"] / 2**20,
                peer=total[peer] / 2**20,
                peer_name=name,
                ratio=saved[peer],
            )
        claimed = claimed_saving(case.tokens)
        self._report.add(
            case,
            "memory_saved",
            "1",
            saved["standard"],
            peer=claimed,
            peer_name=GUIDE if claimed else None,
            ratio=saved["standard"] / claimed if claimed else None,
            # What q, k, v and the output alone would save.
            ceiling=1 - case.tensor_bytes / total["standard"],
        )
        for part, value in found["attnd"].items():
            self._report.add(case, f"peak_memory_{part}", "MiB", value / 2**20)
        self._note(
            ", ".join(
                f"{method} " + " + ".join(f"{v >> 20} MiB {part}" for part, v in parts.items())
                for method, parts in found.items()
            )
        )
        return 0.0

    def _sample(
        self,
        case: Case,
        ours: Callable[[], Mapping[str, float]],
        peers: Mapping[str, Callable[[], torch.Tensor]],
    ) -> tuple[Samples, float]:
        """Rounds of ours, the peers, and now and then the ceiling, whose median it is."""
        ceilings = [self._ceilings.sample(case)]
        sampled_s = time.perf_counter()

        def ours_and_ceiling() -> Mapping[str, float]:
            nonlocal sampled_s
            if time.perf_counter() - sampled_s > _CEILING_EVERY_S:
                ceilings.append(self._ceilings.sample(case))
                sampled_s = time.perf_counter()
            return ours()

        def timed(run: Callable[[], torch.Tensor]) -> Callable[[], Mapping[str, float]]:
            return lambda: {"": seconds_of(run, self._plan.device)}

        runs = {"ours": ours_and_ceiling, **{name: timed(run) for name, run in peers.items()}}
        samples = alternate(runs, budget_s=self._plan.budget_s, least=self._plan.least_rounds)
        return samples, sorted(ceilings)[len(ceilings) // 2]

    def _times(self, case: Case, samples: Samples, peer: str, name: str) -> None:
        for part in ("kernel", "call"):
            ours = f"ours.{part}"
            for suffix, of in _STATISTICS:
                self._report.add(
                    case,
                    f"{part}_time{suffix}",
                    "ms",
                    of(samples, ours) * 1e3,
                    peer=of(samples, peer) * 1e3,
                    peer_name=name,
                    ratio=samples.ratio(peer, ours) if not suffix else None,
                )

    def _finish(self, case: Case, samples: Samples, peers: Mapping[str, str]) -> None:
        """Where the time of a call goes, as rows; and a line for whoever waits."""
        for part in PARTS:
            if part != "kernel":
                value = samples.median(f"ours.{part}") * 1e3
                self._report.add(case, f"{part}_time", "ms", value)
        for suffix, of in _STATISTICS:
            value = of(samples, "ours.overhead") * 1e3
            self._report.add(case, f"daemon_overhead{suffix}", "ms", value)
        shown = {**peers, "attnd's kernel": "ours.kernel", "whole call": "ours.call"}
        medians = [f"{label} {samples.median(name) * 1e3:.3f}" for label, name in shown.items()]
        self._note(f"{', '.join(medians)} ms; {samples.rounds} rounds")
