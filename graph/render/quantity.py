"""Numbers with their units, in as few characters as tell what matters."""

from __future__ import annotations

from typing import Final

_BYTES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_THOUSANDS: Final = ("", "k", "M", "G", "T", "P", "E", "Z")
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"


def write_seconds(seconds: float) -> str:
    """Return a time to three digits, such as ``966 ms``."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{_three(seconds / size)} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def write_bytes(number: float) -> str:
    """Return a number of bytes to three digits, such as ``11.2 MiB``."""
    power = 0
    while number >= 999.5 and power < len(_BYTES) - 1:
        number, power = number / 1024, power + 1
    return f"{_three(number) if power else f'{number:.0f}'} {_BYTES[power]}"


def write_amount(number: float, unit: str) -> str:
    """Return a number of ``unit`` to three digits, such as ``11.2 GFLOP``."""
    power = 0
    while number >= 999.5 and power < len(_THOUSANDS) - 1:
        number, power = number / 1000, power + 1
    return f"{_three(number)} {_THOUSANDS[power]}{unit}"


def write_share(share: float) -> str:
    """Return a part of a whole in per cent, such as ``73.9%``."""
    return "<0.1%" if 0 < share < 0.0005 else f"{100 * share:.1f}%"


def write_rows(rows_in: int, rows_out: int) -> str:
    """Return how many rows went in and came out: one number where it is the same."""
    return f"{rows_in:,} → {rows_out:,}" if rows_in != rows_out else f"{rows_in:,}"


def write_bar(share: float, width: int) -> str:
    """Return a bar of at most ``width`` characters, whole for a ``share`` of 1."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return (_BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8]).strip()


def count(number: int, noun: str) -> str:
    """Return ``number`` of ``noun``, in the plural where it is not one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _three(number: float) -> str:
    decimals = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:,.{decimals}f}"
