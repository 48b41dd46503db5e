"""Masks as short text: which samples have been seen, in a state that is plain JSON.

Masks follow one another as bits, each after its length in Elias's gamma code; the bits are written in
base 85, none of whose characters JSON escapes.
"""

from __future__ import annotations

from base64 import b85decode, b85encode
from collections.abc import Sequence

import numpy as np

from .position import Mask


def write_masks(masks: Sequence[Mask]) -> str:
    """Return ``masks`` as text; empty where all of them are."""
    if not any(map(len, masks)):
        return ""
    bits = "".join(
        _gamma(len(mask) + 1) + (mask + np.uint8(ord("0"))).astype(np.uint8).tobytes().decode()
        for mask in masks
    )
    bits += "0" * (-len(bits) % 8)
    return b85encode(int(bits, 2).to_bytes(len(bits) // 8, "big")).decode()


def read_masks(text: str, number: int) -> tuple[Mask, ...]:
    """Return the ``number`` masks that `write_masks` wrote.

    Raises:
        ValueError: It did not write them.
    """
    if not text:
        return (np.zeros(0, np.bool_),) * number
    content = b85decode(text)
    bits = f"{int.from_bytes(content, 'big'):0{8 * len(content)}b}"
    masks: list[Mask] = []
    at = 0
    for _ in range(number):
        one = bits.index("1", at)
        start = 2 * one - at + 1
        at = start + int(bits[one:start], 2) - 1
        if at > len(bits):
            raise ValueError("a mask ends before it should")
        masks.append(np.frombuffer(bits[start:at].encode(), np.uint8) == ord("1"))
    return tuple(masks)


def _gamma(number: int) -> str:
    return "0" * (number.bit_length() - 1) + f"{number:b}"


__all__ = ["read_masks", "write_masks"]
