# SPDX-License-Identifier: Apache-2.0
"""Reads AMD code objects out of a library: kernels, their resources, their loops.

    for target, elf in code_object.device_images(library, tools):
        for kernel in code_object.kernels(elf, tools):
            print(kernel.name, kernel.vgprs, len(kernel.loops))

`tools` is a Tools of the folder with LLVM's programs, those of the compiler. Thread-safe.
"""

import collections
import dataclasses
import pathlib
import re
import struct
import subprocess
import tempfile

BUNDLE_MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"

Instruction = collections.namedtuple("Instruction", "address mnemonic target")


class Tools:
    """LLVM's programs, run on bytes."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def run(self, program, *arguments, data=None):
        """What the program prints. `data` is the content of the file that `{}` stands for."""
        with tempfile.NamedTemporaryFile() as file:
            if data is not None:
                file.write(data)
                file.flush()
            command = [str(self.folder / program)]
            command += [file.name if argument == "{}" else argument for argument in arguments]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def section(self, library, name):
        """The bytes of a section of an ELF file; empty where it has none."""
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "section"
            result = subprocess.run(
                [str(self.folder / "llvm-objcopy"), f"--dump-section={name}={out}", str(library),
                 "/dev/null"], capture_output=True, text=True)
            if result.returncode != 0 and "not found" not in result.stderr:
                raise RuntimeError(result.stderr)
            return out.read_bytes() if out.exists() else b""


def bundles(data):
    """The (target, ELF) pairs of a .hip_fatbin section: a bundle of all targets for each object."""
    start = data.find(BUNDLE_MAGIC)
    while start >= 0:
        position = start + len(BUNDLE_MAGIC)
        (count,) = struct.unpack_from("<Q", data, position)
        position += 8
        for _ in range(count):
            offset, size, length = struct.unpack_from("<QQQ", data, position)
            position += 24
            triple = data[position:position + length].decode()
            position += length
            # hipv4-amdgcn-amd-amdhsa--gfx942; features may follow a colon. The host's is empty.
            if triple.startswith("hip") and size > 0:
                target = triple.split("--")[-1].split(":")[0]
                yield target, data[start + offset:start + offset + size]
        start = data.find(BUNDLE_MAGIC, position)


def device_images(library, tools):
    """The (target, ELF) pairs of a library or object file."""
    return list(bundles(tools.section(library, ".hip_fatbin")))


@dataclasses.dataclass
class Kernel:
    symbol: str
    name: str           # demangled, without its parameters
    vgprs: int          # on CDNA all registers of the unified file, accumulation ones included
    agprs: int
    sgprs: int
    lds_bytes: int      # declared; launches may ask for more
    scratch_bytes: int
    spills: int         # vector registers that are kept in scratch for a while
    scalar_spills: int  # scalar ones, kept in lanes of vector registers
    has_calls: bool
    max_threads: int    # of a block
    wave_size: int
    loops: list         # of Loop


@dataclasses.dataclass(frozen=True)
class Loop:
    """A natural loop: its basic blocks, inner loops' included."""

    header: int
    blocks: dict        # number: mnemonics
    successors: dict    # number: numbers inside the loop, without back edges
    latches: frozenset  # blocks that go back to the header

    @property
    def mnemonics(self):
        return [mnemonic for n in sorted(self.blocks) for mnemonic in self.blocks[n]]

    def contains(self, other):
        return self.blocks.keys() > other.blocks.keys()

    def best_path(self, value):
        """Mnemonics of one turn, by the way from the header back to it of the largest value.

        `value` takes the mnemonics of a block to a tuple of numbers; those of a way's blocks add
        up. Inner loops are passed through once.
        """
        best = {}  # block: (value, next block) of the best way from there
        entered = set()  # a way does not come back to them, though edges of some inner loops do

        def add(a, b):
            return tuple(map(sum, zip(a, b)))

        def visit(first):
            stack = [(first, iter(self.successors[first]))]
            entered.add(first)
            while stack:
                block, rest = stack[-1]
                following = next((b for b in rest if b not in entered), None)
                if following is not None:
                    entered.add(following)
                    stack.append((following, iter(self.successors[following])))
                    continue
                stack.pop()
                own = value(self.blocks[block])
                ways = [(add(own, best[b][0]), b) for b in self.successors[block]
                        if best.get(b) is not None]
                if block in self.latches:
                    ways.append((own, -1))
                best[block] = max(ways, default=None)

        visit(self.header)
        path, block = [], self.header
        while block != -1:
            path += self.blocks[block]
            block = best[block][1]
        return path


METADATA_KEY = re.compile(r"^(?:  - |    )\.(\w+): +(\S.*)$")


def metadata(notes):
    """The kernels of `llvm-readobj --notes`, as dictionaries of strings."""
    found, inside = [], False
    for line in notes.splitlines():
        if line.startswith("amdhsa.kernels:"):
            inside = True
        elif inside and line.startswith("amdhsa."):
            inside = False
        elif inside:
            if line.startswith("  - "):
                found.append({})
            match = METADATA_KEY.match(line)
            if match:
                found[-1][match.group(1)] = match.group(2).strip("'\"")
    return found


FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")
INSTRUCTION = re.compile(r"^\s+([a-z]\w+)\b.*//\s*([0-9A-F]+): ([0-9A-F]{8})")
BRANCH = re.compile(r"s_(cbranch_\w+|branch)$")
ENDS = re.compile(r"s_(endpgm|setpc_b64|trap)$")


def functions(disassembly):
    """{symbol: [Instruction]} of `llvm-objdump -d`. A branch's target is an address."""
    found, current = {}, []
    for line in disassembly.splitlines():
        match = INSTRUCTION.match(line)
        if match:
            mnemonic, address, target = match.group(1), int(match.group(2), 16), None
            if BRANCH.match(mnemonic):
                # A signed count of words from the next instruction.
                offset = int(match.group(3), 16) & 0xFFFF
                offset -= (offset & 0x8000) << 1
                target = address + 4 + 4 * offset
            current.append(Instruction(address, mnemonic, target))
            continue
        match = FUNCTION.match(line)
        if match:
            current = found.setdefault(match.group(1), [])
    return found


def _blocks(code):
    """Basic blocks: [(first, last + 1, successors)], by index of instruction and of block."""
    index = {instruction.address: i for i, instruction in enumerate(code)}
    leaders = {0}
    for i, instruction in enumerate(code):
        if instruction.target is not None:
            leaders.add(index[instruction.target])
        if instruction.target is not None or ENDS.match(instruction.mnemonic):
            leaders.add(i + 1)
    starts = sorted(leader for leader in leaders if leader < len(code))
    number = {start: n for n, start in enumerate(starts)}
    result = []
    for n, start in enumerate(starts):
        end = starts[n + 1] if n + 1 < len(starts) else len(code)
        last, successors = code[end - 1], []
        if last.target is not None:
            successors.append(number[index[last.target]])
        if end < len(code) and last.mnemonic != "s_branch" and not ENDS.match(last.mnemonic):
            successors.append(n + 1)
        result.append((start, end, successors))
    return result


def _dominators(blocks):
    """Immediate dominators of reachable blocks (Cooper, Harvey and Kennedy), predecessors."""
    order, seen, stack = [], {0}, [(0, iter(blocks[0][2]))]
    while stack:
        block, successors = stack[-1]
        for successor in successors:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(blocks[successor][2])))
                break
        else:
            order.append(block)
            stack.pop()
    order.reverse()
    rank = {block: n for n, block in enumerate(order)}
    predecessors = collections.defaultdict(list)
    for block in order:
        for successor in blocks[block][2]:
            predecessors[successor].append(block)

    dominator, changed = {0: 0}, True
    while changed:
        changed = False
        for block in order[1:]:
            new = None
            for other in predecessors[block]:
                if other not in dominator:
                    continue
                while new is not None and new != other:
                    if rank[new] > rank[other]:
                        new = dominator[new]
                    else:
                        other = dominator[other]
                new = other
            if dominator.get(block) != new:
                dominator[block], changed = new, True
    return dominator, predecessors


def loops(code):
    """The natural loops of a function.

    A back edge goes to a block that dominates its origin; loops with one header are one loop.
    """
    if not code:
        return []
    blocks = _blocks(code)
    dominator, predecessors = _dominators(blocks)

    def dominates(a, b):
        while b != a and b != 0:
            b = dominator[b]
        return a == b

    bodies = collections.defaultdict(set)
    for block in dominator:
        for header in blocks[block][2]:
            if dominates(header, block):
                body, todo = bodies[header], [block]
                body.add(header)
                while todo:
                    inside = todo.pop()
                    if inside not in body:
                        body.add(inside)
                        todo += predecessors[inside]
    return [
        Loop(header=header,
             blocks={n: [i.mnemonic for i in code[slice(*blocks[n][:2])]] for n in body},
             successors={n: [s for s in blocks[n][2] if s in body and not dominates(s, n)]
                         for n in body},
             latches=frozenset(n for n in body if header in blocks[n][2]))
        for header, body in bodies.items()]


def kernels(elf, tools):
    """The kernels of one code object."""
    listed = metadata(tools.run("llvm-readobj", "--notes", "{}", data=elf))
    code = functions(tools.run("llvm-objdump", "-d", "{}", data=elf))
    demangled = tools.run("llvm-cxxfilt", "--no-params", *[k["name"] for k in listed]).splitlines()
    result = []
    for entry, name in zip(listed, demangled, strict=True):
        body = code[entry["name"]]
        result.append(Kernel(
            symbol=entry["name"],
            name=name,
            vgprs=int(entry["vgpr_count"]),
            agprs=int(entry.get("agpr_count", 0)),
            sgprs=int(entry["sgpr_count"]),
            lds_bytes=int(entry["group_segment_fixed_size"]),
            scratch_bytes=int(entry["private_segment_fixed_size"]),
            spills=int(entry.get("vgpr_spill_count", 0)),
            scalar_spills=int(entry.get("sgpr_spill_count", 0)),
            has_calls=any(i.mnemonic == "s_swappc_b64" for i in body),
            max_threads=int(entry["max_flat_workgroup_size"]),
            wave_size=int(entry["wavefront_size"]),
            loops=loops(body)))
    return result
