"""Masks that run in worker processes, and misbehave there. Workers find them by name, and import no test."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from taskloom.graph.op import Traits
from taskloom.ops.host.noise import MaskSpans


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskApart(MaskSpans):
    """Masks as ever, but holds the GIL: it must never run in the process of the loader."""

    traits: ClassVar[Traits] = Traits("mask_spans", version=1, is_random=True, releases_gil=False)

    def __call__(self, ids: pa.Array, *, keys: npt.NDArray[np.uint64]) -> pa.Array:
        """Mask, unless this is the loader; what is asked of no rows may be answered anywhere."""
        if len(ids) and str(os.getpid()) == os.environ["LOADER_PID"]:
            raise RuntimeError("the loader computes what it should have handed over")
        lengths = ids.value_lengths().to_pylist()
        if int(os.environ.get("CRASH_AT", "-1")) in lengths:
            os.kill(os.getpid(), signal.SIGSEGV)
        if int(os.environ.get("REFUSE_AT", "-1")) in lengths:
            raise ZeroDivisionError("an op with a mistake")
        if len(ids) and "HANG" in os.environ:
            time.sleep(600)
        return super(MaskApart, self).__call__(ids, keys=keys)
