# SPDX-License-Identifier: Apache-2.0
"""The launcher (launcher.h) from Python: a backend that computes on PyTorch's memory."""

import ctypes

import torch

# attnd::DType.
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class _Numbers(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "dtype", "query_heads", "kv_heads", "head_dim", "causal", "batch")),
        ("page_size_tokens", ctypes.c_int64),
        ("query_lens", ctypes.POINTER(ctypes.c_int64)),
        ("kv_lens", ctypes.POINTER(ctypes.c_int64)),
        ("page_offsets", ctypes.POINTER(ctypes.c_uint64)),
        *((name, ctypes.c_void_p) for name in ("pages", "q", "out", "new_k", "new_v")),
    ]


class Library:
    """One launcher, on one device. Close it before the device's memory goes."""

    def __init__(self, path, device=0, launches=0):
        self.path = path
        self._c = ctypes.CDLL(str(path))
        for name in ("open", "wait"):
            getattr(self._c, f"attnd_launcher_{name}").restype = ctypes.c_char_p
        for name in ("new", "launch"):
            getattr(self._c, f"attnd_case_{name}").restype = ctypes.c_char_p
        self._c.attnd_launcher_name.restype = ctypes.c_char_p
        self._c.attnd_launcher_stream.restype = ctypes.c_void_p
        self._launcher = ctypes.c_void_p()
        self.check(self._c.attnd_launcher_open(device, launches, ctypes.byref(self._launcher)))
        self.name = self._c.attnd_launcher_name(self._launcher).decode()
        self.stream = self._c.attnd_launcher_stream(self._launcher)

    @staticmethod
    def check(outcome):
        if outcome is not None:
            raise RuntimeError(outcome.decode())

    def wait(self):
        self.check(self._c.attnd_launcher_wait(self._launcher))

    def close(self):
        self._c.attnd_launcher_close(self._launcher)

    def case(self, **numbers):
        return Case(self._c, self._launcher, numbers)


class Case:
    """A planned batch. launch() queues it; the tensors named at its making stay alive with it.

    numbers: pages [pages, 2, kv_heads, page_size, dim], page_table (one list of page indices an
    item), query_lens, kv_lens, query_heads, causal; q and out [tokens, query_heads, dim], or new_k
    and new_v [tokens, kv_heads, dim].
    """

    def __init__(self, c, launcher, numbers):
        self._c, self._kept = c, numbers
        pages = numbers["pages"]
        kv_heads, page_size, dim = pages.shape[2:]
        page_bytes = pages[0].numel() * pages.element_size()
        offsets = [page * page_bytes for item in numbers["page_table"] for page in item]
        batch = len(numbers["kv_lens"])
        raw = _Numbers(
            dtype=DTYPES[pages.dtype], query_heads=numbers["query_heads"], kv_heads=kv_heads,
            head_dim=dim, causal=numbers["causal"], batch=batch, page_size_tokens=page_size,
            query_lens=(ctypes.c_int64 * batch)(*numbers["query_lens"]),
            kv_lens=(ctypes.c_int64 * batch)(*numbers["kv_lens"]),
            page_offsets=(ctypes.c_uint64 * len(offsets))(*offsets), pages=pages.data_ptr())
        for name in ("q", "out", "new_k", "new_v"):
            if numbers.get(name) is not None:
                assert numbers[name].is_contiguous(), name
                setattr(raw, name, numbers[name].data_ptr())
        self._case = ctypes.c_void_p()
        Library.check(c.attnd_case_new(launcher, ctypes.byref(raw), ctypes.byref(self._case)))

    def launch(self):
        outcome = self._c.attnd_case_launch(self._case)
        if outcome is not None:
            Library.check(outcome)

    def free(self):
        self._c.attnd_case_free(self._case)
        self._kept = None
