#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the compiler made of the AMD kernels, and whether that is within the limits.

    tests/hip/code_object_report.py LIBRARY --llvm_bin DIR --limits FILE
        [--launches PROGRAM] [--gpus GPU...] [--out PATH]

Prints a line for each GPU and kernel of a library (or object file) with code objects inside:
registers, LDS, scratch, spills, waves on a SIMD (amd_gpu.py has the formulas), and of the hot loop
the instructions by kind and the share of vector cycles that are matrix instructions:

    share = M / (M + V), M = sum of the cycles of matrix instructions, V = of other vector ones

The hot loop is, of the loops with matrix instructions and, where there are such, exponentials (a
pass over one tile of keys), the one with the largest share: masked tiles may have a loop of their
own. Of its branches the way counts that has most matrix instructions and then least others: masks
and special cases are not taken. `all` has the vector instructions of every branch. `*` marks a
loop that is not unrolled: it runs its inner loop's instructions more often than the count says. LDS
and memory instructions are issued beside vector ones and have no part in the share.

A line of a limits file is `KERNEL GPU key=value...`: two regular expressions, which must match the
whole kernel name (demangled, without namespaces, spaces and parameters) and the whole GPU name, and

    lds=BYTES            that a launch asks for on top of what the code object declares
    waves=N              of a block, where that is not what the kernel's launch bounds say
    waves_per_simd=X     at least; every kernel needs this one
    matrix=yes|no        the hot loop has matrix instructions, or the kernel has none
    share=X              of the hot loop, at least
    calls=yes            it may call functions
    spills=N scratch=BYTES   at most; 0 unless given. Spilled scalar registers, which go to lanes of
                         vector ones and not to memory, are shown and not limited

All lines that match a kernel count, a later one for the same key last. A line that matches nothing
is an error, so is a GPU of --gpus that the library does not serve. PROGRAM prints such lines too,
which come first. --out writes the table to PATH.txt and PATH.json. Exit code 1: over a limit.
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import amd_gpu  # noqa: E402
import code_object  # noqa: E402

KINDS = (
    ("matrix", amd_gpu.MATRIX),
    ("dot", re.compile(r"v_dot")),
    ("exp", amd_gpu.TRANSCENDENTAL),
    ("accvgpr", re.compile(r"v_accvgpr_")),
    ("vector", re.compile(r"v_")),
    ("lds_read", re.compile(r"ds_(load|read)")),
    ("lds", re.compile(r"ds_")),
    ("scratch", re.compile(r"scratch_")),
    ("memory", re.compile(r"(global|flat|buffer|tbuffer|image)_")),
    ("scalar", re.compile(r"s_")),
)

LIMIT_TYPES = {"lds": int, "waves": int, "waves_per_simd": float, "matrix": str, "share": float,
               "calls": str, "spills": int, "scratch": int}


class UsageError(Exception):
    """The limits file or the library is not what the report can work with."""


@dataclasses.dataclass
class LimitLine:
    where: str
    kernel: re.Pattern
    gpu: re.Pattern
    limits: dict
    is_used: bool = False


def read_limits(name, content):
    lines = []
    for number, text in enumerate(content.splitlines(), 1):
        fields = text.split("#")[0].split()
        if not fields:
            continue
        where = f"{name}:{number}"
        if len(fields) < 3:
            raise UsageError(f"{where}: expected KERNEL GPU key=value...")
        limits = {}
        for field in fields[2:]:
            key, _, value = field.partition("=")
            if key not in LIMIT_TYPES:
                raise UsageError(f"{where}: no limit '{key}': {' '.join(LIMIT_TYPES)}")
            limits[key] = LIMIT_TYPES[key](value)
        lines.append(LimitLine(where, re.compile(fields[0]), re.compile(fields[1]), limits))
    return lines


def limits_of(lines, kernel_name, gpu_name):
    found = {}
    for line in lines:
        if line.kernel.fullmatch(kernel_name) and line.gpu.fullmatch(gpu_name):
            line.is_used = True
            found.update(line.limits)
    return found


def short_name(name):
    """attnd::gpu::AttendKernel<(attnd::gpu::Phase)0, 128> as AttendKernel<(Phase)0,128>."""
    return re.sub(r"\s|\w+::|\(anonymous namespace\)::", "", name)


def kind_of(mnemonic):
    return next((kind for kind, pattern in KINDS if pattern.match(mnemonic)), "other")


@dataclasses.dataclass
class HotLoop:
    counts: collections.Counter   # instructions by kind
    matrix_cycles: int
    vector_cycles: int            # of the other vector instructions
    unknown: set                  # matrix instructions whose cycles amd_gpu does not know
    is_rolled: bool = False
    all_vector: int = 0           # instructions of every branch, matrix ones aside

    @property
    def share(self):
        return self.matrix_cycles / max(self.matrix_cycles + self.vector_cycles, 1)


def measure(mnemonics, gpu):
    matrix = vector = 0
    unknown = set()
    for mnemonic in mnemonics:
        if not mnemonic.startswith("v_"):
            continue
        cycles = gpu.cycles(mnemonic)
        if cycles is None:
            unknown.add(mnemonic)
        elif amd_gpu.MATRIX.match(mnemonic):
            matrix += cycles
        else:
            vector += cycles
    return HotLoop(collections.Counter(map(kind_of, mnemonics)), matrix, vector, unknown)


def hot_loop(loops, gpu):
    """See the head of this file; None where no loop has matrix instructions."""
    with_matrix = [loop for loop in loops if any(map(amd_gpu.MATRIX.match, loop.mnemonics))]
    with_exp = [loop for loop in with_matrix
                if any(m.startswith("v_exp_") for m in loop.mnemonics)]

    def value(mnemonics):
        cycles = measure(mnemonics, gpu)
        return cycles.matrix_cycles, -cycles.vector_cycles, -len(mnemonics)

    best = None
    for loop in with_exp or with_matrix:
        found = measure(loop.best_path(value), gpu)
        found.is_rolled = any(loop.contains(other) for other in with_matrix)
        found.all_vector = sum(m.startswith("v_") and not amd_gpu.MATRIX.match(m)
                               for m in loop.mnemonics)
        if best is None or found.share > best.share:
            best = found
    return best


@dataclasses.dataclass
class Row:
    gpu: str
    kernel: str
    vgprs: int
    agprs: int
    sgprs: int
    lds_bytes: int
    scratch_bytes: int
    spills: int
    scalar_spills: int
    waves_per_simd: float
    hot: HotLoop | None
    problems: list


def check(gpu_name, kernel, limit_lines):
    """A kernel's row, with what is wrong with it."""
    gpu = amd_gpu.GPUS[gpu_name]
    name = short_name(kernel.name)
    limits = limits_of(limit_lines, name, gpu_name)
    lds = kernel.lds_bytes + limits.get("lds", 0)
    waves = limits.get("waves", -(-kernel.max_threads // kernel.wave_size))
    row = Row(gpu_name, name, kernel.vgprs, kernel.agprs, kernel.sgprs, lds, kernel.scratch_bytes,
              kernel.spills, kernel.scalar_spills,
              gpu.waves_per_simd(vgprs=kernel.vgprs, sgprs=kernel.sgprs, lds_bytes=lds,
                                 waves_per_block=waves),
              hot_loop(kernel.loops, gpu), [])
    problem = row.problems.append
    if kernel.wave_size != gpu.wave_size:
        problem(f"waves of {kernel.wave_size}, not {gpu.wave_size}")
    if lds > gpu.lds_block_bytes:
        problem(f"{lds} B of LDS, a block has {gpu.lds_block_bytes} at most")
    if kernel.has_calls and limits.get("calls") != "yes":
        problem("calls functions that are not inlined")
    if row.spills > limits.get("spills", 0):
        problem(f"{row.spills} spills, at most {limits.get('spills', 0)}")
    if row.scratch_bytes > limits.get("scratch", 0):
        problem(f"{row.scratch_bytes} B of scratch, at most {limits.get('scratch', 0)}")
    if "waves_per_simd" not in limits:
        problem("no limit for its waves_per_simd: add a line")
    elif row.waves_per_simd < limits["waves_per_simd"]:
        problem(f"{row.waves_per_simd:g} waves on a SIMD, at least {limits['waves_per_simd']:g}")
    if limits.get("matrix") == "yes" and not row.hot:
        problem("no matrix instruction in any loop")
    if limits.get("matrix") == "no" and row.hot:
        problem("matrix instructions, where none were expected")
    if row.hot and row.hot.unknown:
        problem(f"cycles not known of {' '.join(sorted(row.hot.unknown))}: amd_gpu.py")
    share = row.hot.share if row.hot else 0
    if share < limits.get("share", 0):
        problem(f"matrix share {share:.3f}, at least {limits['share']:g}")
    return row


HEAD = ("gpu", "vgpr", "agpr", "sgpr", "lds", "scratch", "spills", "sspills", "waves", "matrix",
        "dot", "vector", "all", "exp", "accvgpr", "ds", "memory", "scalar", "share", "kernel")


def table_line(row):
    cells = [row.gpu, row.vgprs, row.agprs, row.sgprs, row.lds_bytes, row.scratch_bytes, row.spills,
             row.scalar_spills, f"{row.waves_per_simd:g}"]
    if row.hot:
        counts = row.hot.counts
        cells += [counts["matrix"], counts["dot"], counts["vector"], row.hot.all_vector,
                  counts["exp"], counts["accvgpr"], f"{counts['lds_read']}+{counts['lds']}",
                  counts["memory"] + counts["scratch"], counts["scalar"],
                  f"{row.hot.share:.3f}" + ("*" if row.hot.is_rolled else "")]
    else:
        cells += ["-"] * 10
    return [str(cell) for cell in cells] + [row.kernel]


def table(rows):
    lines = [HEAD] + [table_line(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "".join(
        "  ".join([cell.rjust(width) for cell, width in zip(line[:-1], widths)] + [line[-1]]) + "\n"
        for line in lines)


def as_json(row):
    fields = vars(row).copy()
    if row.hot:
        fields["hot"] = {"share": round(row.hot.share, 4), "is_rolled": row.hot.is_rolled,
                         "matrix_cycles": row.hot.matrix_cycles,
                         "vector_cycles": row.hot.vector_cycles,
                         "all_vector": row.hot.all_vector, "counts": dict(row.hot.counts)}
    return fields


def report(library, tools, limit_lines, gpus):
    """Rows, ordered by kernel and GPU, and what is wrong with the library as a whole."""
    images = code_object.device_images(library, tools)
    problems = []
    unknown = sorted({target for target, _ in images} - set(amd_gpu.GPUS))
    if unknown:
        raise UsageError(f"amd_gpu.py does not know {' '.join(unknown)}")
    for gpu in gpus:
        if gpu not in (target for target, _ in images):
            problems.append(f"{library}: no code for {gpu}")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = pool.map(lambda image: (image[0], code_object.kernels(image[1], tools)), images)
        rows = [check(gpu, kernel, limit_lines) for gpu, kernels in found for kernel in kernels]
    rows.sort(key=lambda row: (row.kernel, list(amd_gpu.GPUS).index(row.gpu)))
    if not rows:
        problems.append(f"{library}: no kernels")
    problems += [f"{line.where}: matches no kernel" for line in limit_lines if not line.is_used]
    return rows, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("--llvm_bin", required=True, help="folder of llvm-objdump and its friends")
    parser.add_argument("--limits", required=True)
    parser.add_argument("--launches", help="program that prints the LDS of launches")
    parser.add_argument("--gpus", nargs="*", default=[], help="those that it must serve")
    parser.add_argument("--out", help="where the table is kept, without .txt or .json")
    args = parser.parse_args()
    try:
        limit_lines = read_limits(args.limits, pathlib.Path(args.limits).read_text())
        if args.launches:
            printed = subprocess.run([args.launches], check=True, capture_output=True, text=True)
            limit_lines = read_limits(args.launches, printed.stdout) + limit_lines
        rows, problems = report(args.library, code_object.Tools(args.llvm_bin), limit_lines,
                                args.gpus)
    except UsageError as error:
        sys.exit(f"code_object_report: {error}")
    print(table(rows), end="")
    if args.out:
        pathlib.Path(args.out + ".txt").write_text(table(rows))
        lines = ",\n".join(json.dumps(as_json(row)) for row in rows)
        pathlib.Path(args.out + ".json").write_text(f"[\n{lines}\n]\n")
    problems += [f"{row.gpu} {row.kernel}: {problem}" for row in rows for problem in row.problems]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"code_object_report: {len(rows)} kernels, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
