"""What devices can do, as their makers state it: a small table to be read, and nothing that is measured.

Peaks are of dense matrix products, without sparsity: ``bfloat16`` summed in single precision, ``tensorfloat32``
as torch multiplies float32 where it is let, and ``float32`` as it does by default. Links are one way, of one
device. Memory is about what torch shows as ``total_memory``: drivers differ by a hundred megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ...graph.errors import TrainingError

_GIB: Final = 2**30
_PRECISIONS: Final = ("bfloat16", "tensorfloat32", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A device.

    Attributes:
        name: What it is called in full.
        named: Pattern of the names that torch gives it.
        memory: Bytes of its memory.
        bandwidth: Bytes a second from and to its memory.
        peaks: FLOP a second by precision; empty where nobody states them.
        link: Bytes a second from one device to another of the same node.
        node: Devices of a node, as they are usually sold.
        source: Where the figures are from.
    """

    name: str
    named: str
    memory: int
    bandwidth: float
    peaks: Mapping[str, float]
    link: float
    node: int
    source: str


def _gpu(
    name: str,
    named: str,
    *,
    gib: float,
    gb_s: float,
    tflops: tuple[float, float, float],
    link: float,
    source: str,
    node: int = 8,
) -> Hardware:
    return Hardware(
        name=name,
        named=named,
        memory=round(gib * _GIB),
        bandwidth=1e9 * gb_s,
        peaks=MappingProxyType(
            {name: 1e12 * peak for name, peak in zip(_PRECISIONS, tflops, strict=True)}
        ),
        link=1e9 * link,
        node=node,
        source=source,
    )


NETWORK: Final = 50e9
"""Bytes a second from a device to one of another node, unless it is said: 400 Gbit/s for each of them."""

HARDWARE: Final[Mapping[str, Hardware]] = MappingProxyType(
    {
        "a100-40": _gpu(
            "NVIDIA A100 SXM, 40 GB",
            r"A100.*40GB",
            gib=39.4,
            gb_s=1555,
            tflops=(312, 156, 19.5),
            link=300,
            source="NVIDIA A100 Tensor Core GPU data sheet",
        ),
        "a100-80": _gpu(
            "NVIDIA A100 SXM, 80 GB",
            r"A100",
            gib=79.3,
            gb_s=2039,
            tflops=(312, 156, 19.5),
            link=300,
            source="NVIDIA A100 Tensor Core GPU data sheet",
        ),
        "h100-pcie": _gpu(
            "NVIDIA H100 PCIe",
            r"H100 PCIe",
            gib=79.1,
            gb_s=2000,
            tflops=(756, 378, 51),
            link=64,
            source="NVIDIA H100 PCIe GPU product brief",
        ),
        "h100": _gpu(
            "NVIDIA H100 SXM",
            r"H100",
            gib=79.1,
            gb_s=3350,
            tflops=(989.4, 494.7, 66.9),
            link=450,
            source="NVIDIA H100 Tensor Core GPU architecture, table 2",
        ),
        "h200": _gpu(
            "NVIDIA H200 SXM",
            r"H200",
            gib=139.8,
            gb_s=4800,
            tflops=(989.4, 494.7, 66.9),
            link=450,
            source="NVIDIA H200 Tensor Core GPU data sheet",
        ),
        "b200": _gpu(
            "NVIDIA B200",
            r"B200",
            gib=178.0,
            gb_s=7700,
            tflops=(2250, 1125, 75),
            link=900,
            source="NVIDIA HGX B200 data sheet, an eighth of the board",
        ),
        "l4": _gpu(
            "NVIDIA L4",
            r"\bL4\b",
            gib=22.0,
            gb_s=300,
            tflops=(121, 60, 30.3),
            link=32,
            source="NVIDIA L4 Tensor Core GPU data sheet",
        ),
        "l40s": _gpu(
            "NVIDIA L40S",
            r"L40S",
            gib=44.4,
            gb_s=864,
            tflops=(362, 183, 91.6),
            link=32,
            source="NVIDIA L40S data sheet",
        ),
        "rtx4090": _gpu(
            "NVIDIA GeForce RTX 4090",
            r"RTX 4090",
            gib=23.5,
            gb_s=1008,
            tflops=(165.2, 82.6, 82.6),
            link=32,
            node=1,
            source="NVIDIA Ada GPU architecture, appendix A",
        ),
        "mi300x": _gpu(
            "AMD Instinct MI300X",
            r"MI300X",
            gib=191.7,
            gb_s=5300,
            tflops=(1307.4, 653.7, 163.4),
            link=448,
            source="AMD Instinct MI300X data sheet",
        ),
        "cpu": Hardware(
            name="the host",
            named=r"^cpu$",
            memory=0,
            bandwidth=0.0,
            peaks=MappingProxyType({}),
            link=0.0,
            node=1,
            source="processors differ too much to be told by one name",
        ),
    }
)
"""Devices by the names of ``--kind``; of two whose patterns fit, the first is meant."""


def find_hardware(device_name: str) -> Hardware | None:
    """Return what torch calls ``device_name``, such as ``"NVIDIA H100 80GB HBM3"``; None if it is not known."""
    known = (each for each in HARDWARE.values() if re.search(each.named, device_name))
    return next(known, None)


def peak_flops(device_name: str, precision: str = "bfloat16") -> float | None:
    """Return the FLOP a second of what torch calls ``device_name``; None where it is not known."""
    found = find_hardware(device_name)
    return None if found is None else found.peaks.get(precision)


def hardware_of(kind: str) -> Hardware:
    """Return the device of a kind.

    Raises:
        TrainingError: There is no such kind (T0830).
    """
    if kind not in HARDWARE:
        message = f'no hardware is known as "{kind}"'
        raise TrainingError.of("T0830", message, f"known: {', '.join(HARDWARE)}")
    return HARDWARE[kind]
