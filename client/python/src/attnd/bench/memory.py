# SPDX-License-Identifier: Apache-2.0
"""How much memory one attention takes at its highest, measured in a process of its own.

    python -m attnd.bench.memory --method standard --device cpu --dtype f32 --tokens 1024

prints a JSON object of bytes. What counts begins before q, k and v exist and ends with the output:

    CPU   "process": the peak of the resident memory above what it was (VmHWM, reset before);
          "daemon": the same of a fresh daemon, with attnd.
    GPU   "device": the peak that PyTorch's allocator handed out, and what the daemon took of the
          device's free memory; "process" and "daemon" as above, of the host's memory.

cases.py has the formulas that go with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.nn import functional

import attnd
from attnd.bench.cases import Case
from attnd.bench.peers import DTYPES, sdpa_context, standard_attention
from attnd.bench.served import fresh_daemon

METHODS = ("standard", "sdpa", "attnd")
_WARM_TOKENS = 16
_CHILD_S = 300


def measure(case: Case, method: str, device: str, threads: int) -> dict[str, int]:
    """Bytes by place: in a new process, but for the peers on a GPU, whose allocator counts itself.

    Raises:
        RuntimeError: it failed.
    """
    if device == "cuda" and method != "attnd":
        torch.cuda.empty_cache()
        return _measure(_peer(method), case, device, Peak())
    return in_child(case, method, device, threads)


def in_child(case: Case, method: str, device: str, threads: int) -> dict[str, int]:
    """Measures in a new process; the object that it prints.

    Raises:
        RuntimeError: it failed; with the last line of what it said.
    """
    command = [sys.executable, "-m", "attnd.bench.memory", f"--method={method}"]
    command += [f"--device={device}", f"--dtype={case.dtype}", f"--tokens={case.tokens}"]
    command += [f"--threads={threads}"]
    source = str(Path(attnd.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=_CHILD_S,
        env=os.environ | {"PYTHONPATH": path},
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()
        raise RuntimeError(f"{method}: {said[-1]}")
    result: dict[str, int] = json.loads(done.stdout)
    return result


def available_bytes(device: str) -> int:
    """Of memory that an attention on this device could still get."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return _status(Path("/proc/meminfo"), "MemAvailable")


class Peak:
    """Peak resident bytes of processes, by name, above what they had at `begin`."""

    def __init__(self, **pids: int) -> None:
        self._pids, self._before = pids, dict[str, int]()

    def begin(self) -> None:
        """Forgets what was before."""
        for name, pid in self._pids.items():
            self._before[name] = _status(Path(f"/proc/{pid}/status"), "VmRSS")
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")

    def end(self) -> dict[str, int]:
        """What each has added since, at its highest."""
        return {
            name: _status(Path(f"/proc/{pid}/status"), "VmHWM") - self._before[name]
            for name, pid in self._pids.items()
        }


def _status(path: Path, field: str) -> int:
    with path.open(encoding="utf-8") as lines:
        return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def _peer(method: str) -> Callable[[int, str, torch.dtype], torch.Tensor]:
    def run(tokens: int, device: str, dtype: torch.dtype) -> torch.Tensor:
        q, k, v = (torch.randn(8, 8, tokens, 64, device=device, dtype=dtype) for _ in range(3))
        if method == "standard":
            return standard_attention(q, k, v, False)
        return functional.scaled_dot_product_attention(q, k, v)

    return run


def _served(client: attnd.Client) -> Callable[[int, str, torch.dtype], torch.Tensor]:
    def run(tokens: int, device: str, dtype: torch.dtype) -> torch.Tensor:
        q, k, v = (torch.randn(8, tokens, 8, 64, device=device, dtype=dtype) for _ in range(3))
        out: torch.Tensor = client.flash_attention(q, k, v).out
        return out.to(device)

    return run


def _measure(
    run: Callable[[int, str, torch.dtype], torch.Tensor], case: Case, device: str, peak: Peak
) -> dict[str, int]:
    dtype = DTYPES[case.dtype]
    run(_WARM_TOKENS, device, dtype)  # Libraries, threads and workspaces are no part of it.
    if device != "cuda":
        peak.begin()
        run(case.tokens, device, dtype)
        return peak.end()
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    free = torch.cuda.mem_get_info()[0]
    torch.cuda.reset_peak_memory_stats()
    peak.begin()
    run(case.tokens, device, dtype)
    torch.cuda.synchronize()
    own = torch.cuda.memory_reserved() - reserved
    others = max(0, free - torch.cuda.mem_get_info()[0] - own)
    device_bytes = torch.cuda.max_memory_allocated() - allocated + others
    return {"device": device_bytes, **peak.end()}


def main() -> int:
    """Measures one method at one length and prints it."""
    parser = argparse.ArgumentParser(prog="attnd.bench.memory")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--dtype", choices=sorted(DTYPES), required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    case = Case.prefill(args.dtype, args.tokens, causal=False)
    own = os.getpid()
    with torch.inference_mode():
        if args.method == "attnd":
            with fresh_daemon(args.device, args.threads) as daemon, daemon.connect() as client:
                assert daemon.pid is not None
                peak = Peak(process=own, daemon=daemon.pid)
                found = _measure(_served(client), case, args.device, peak)
        else:
            with sdpa_context(args.dtype, args.device):
                found = _measure(_peer(args.method), case, args.device, Peak(process=own))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
