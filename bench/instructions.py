"""Counting the instructions that a program's processes run: on a busy machine they stay what they are.

CPU-seconds grow by a third where others use the same caches and memory; the same work is the same instructions
to a hundredth. Linux counts them (``perf_event_open``), if the processor does and it is allowed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable

_CALL_NUMBERS = {"x86_64": 298, "aarch64": 241}
_ATTRIBUTE_BYTES = 128
_HARDWARE, _INSTRUCTIONS = 0, 1
_INHERIT, _EXCLUDE_HYPERVISOR = 1 << 1, 1 << 6


def open_instructions() -> Callable[[], int] | None:
    """Return a counter of the instructions of this thread, and of threads and processes that follow from it.

    None where they cannot be counted.
    """
    number = _CALL_NUMBERS.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return None
    attribute = bytearray(_ATTRIBUTE_BYTES)
    struct.pack_into("IIQ", attribute, 0, _HARDWARE, _ATTRIBUTE_BYTES, _INSTRUCTIONS)
    struct.pack_into("Q", attribute, 40, _INHERIT | _EXCLUDE_HYPERVISOR)
    given = (ctypes.c_char * _ATTRIBUTE_BYTES).from_buffer(attribute)
    opened = ctypes.CDLL(None).syscall(number, given, 0, -1, -1, 0)
    if opened < 0:
        return None
    return lambda: int(struct.unpack("Q", os.read(opened, 8))[0])
