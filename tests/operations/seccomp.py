# SPDX-License-Identifier: Apache-2.0
"""A seccomp filter for a child process, through libseccomp: what systemd makes of a unit.

    subprocess.Popen(..., preexec_fn=Filter(calls, {AF_UNIX}, kill=True).apply)

`kill` ends the process at the first call that is not allowed, so that no refusal goes unnoticed;
else the call fails with EPERM, as in the unit.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_EPERM = 0x00050000 | errno.EPERM
_NOT_EQUAL, _MASKED_EQUAL = 1, 7
_PROT_WRITE, _PROT_EXEC = 2, 4


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


class Filter:
    def __init__(self, calls: Iterable[str], families: Iterable[int], *, kill: bool) -> None:
        # All that allocates is done here: `apply` runs between fork and exec.
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        refuse = _KILL_PROCESS if kill else _EPERM
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(refuse)))
        # MemoryDenyWriteExecute=: as systemd does, by the arguments of these.
        narrowed = {"mmap", "mprotect", "pkey_mprotect", "socket", "shmat"}
        # The wrapper's own exec, which systemd does before its filter counts.
        for call in {*calls, "execve"} - narrowed:
            self._rule(call)
        write_exec = _PROT_WRITE | _PROT_EXEC
        for protection in (0, _PROT_WRITE, _PROT_EXEC):
            self._rule("mmap", _Comparison(2, _MASKED_EQUAL, write_exec, protection))
        self._rule("mprotect", _Comparison(2, _MASKED_EQUAL, _PROT_EXEC, 0))
        self._rule("pkey_mprotect", _Comparison(2, _MASKED_EQUAL, _PROT_EXEC, 0))
        for family in families:
            self._rule("socket", _Comparison(0, _MASKED_EQUAL, 0xFFFFFFFF, family))

    def _rule(self, call: str, *comparisons: _Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return  # of another architecture, or newer than the library
        array = (_Comparison * max(1, len(comparisons)))(*comparisons)
        result = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(_ALLOW), number, len(comparisons), array
        )
        if result != 0:
            raise OSError(-result, f"seccomp rule of {call}")

    def apply(self) -> None:
        """In the child. Sets no_new_privs, too."""
        result = self._library.seccomp_load(self._context)
        if result != 0:
            raise OSError(-result, "seccomp_load")
