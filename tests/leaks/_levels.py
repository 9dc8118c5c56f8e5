"""What a process has: objects, C memory, descriptors, threads, references.

Law: what the system cannot tell is 0 throughout; the rest still counts.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterable
from typing import Any


class _Mallinfo2(ctypes.Structure):
    """glibc's; ``uordblks`` are the bytes handed out by malloc and not freed."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905, E501
    ]


def _mallinfo2() -> Any:
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc 2.33
    if function is not None:
        function.restype = _Mallinfo2
    return function


_ask = _mallinfo2()


def c_memory() -> int:
    """Bytes that C code, hiredis and Python's larger objects have of malloc now."""
    if _ask is None:
        return 0
    now = _ask()
    return int(now.uordblks + now.hblkhd)


def descriptors() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return len(os.listdir(folder))
    return 0


class Levels:
    """A snapshot; ``shared`` are objects whose references are counted one by one."""

    def __init__(self, shared: Iterable[Any]) -> None:
        gc.collect()
        self.references = [sys.getrefcount(thing) for thing in shared]
        self.objects = sys.getallocatedblocks()
        self.c_memory = c_memory()
        self.descriptors = descriptors()
        self.threads = threading.active_count()

    def grown_since(self, before: Levels, times: int) -> list[str]:
        """What has grown by more than a tenth of what ``times`` leaks would take, in words."""
        found = []
        if self.objects - before.objects > times // 10 + 50:
            found.append(f"{self.objects - before.objects} blocks of Python memory")
        if self.c_memory - before.c_memory > 3 * times + 8192:  # no block is under 32 bytes
            found.append(f"{self.c_memory - before.c_memory} bytes of C memory")
        if self.descriptors > before.descriptors:
            found.append(f"{self.descriptors - before.descriptors} descriptors")
        if self.threads > before.threads:
            found.append(f"{self.threads - before.threads} threads")
        for place, (now, then) in enumerate(zip(self.references, before.references, strict=True)):
            if abs(now - then) > times // 10 + 5:
                found.append(f"{now - then} references to shared object {place}")
        return found
