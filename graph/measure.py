"""What a node has cost, and what went through it: the figures that views show of a real run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Figures of one node, summed over the calls of a run.

    Attributes:
        calls: How often it ran.
        rows_in: Rows that it was given.
        rows_out: Rows that it gave a value for.
        rejects: Rows that it refused; not those that reached it without a value.
        bytes: Bytes of what it gave, in memory.
        seconds: Wall time in it alone, makers excluded; of a device node, its gradient included.
        backward_seconds: The part of ``seconds`` that the gradient of a device node took.
        stored_bytes: Bytes that its columns took in the store.
        writing_seconds: Wall time of writing them, which is no part of ``seconds``.
    """

    calls: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rejects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    backward_seconds: float = 0.0
    stored_bytes: int = 0
    writing_seconds: float = 0.0

    def __add__(self, other: Measure) -> Measure:
        return Measure(
            calls=self.calls + other.calls,
            rows_in=self.rows_in + other.rows_in,
            rows_out=self.rows_out + other.rows_out,
            rejects=self.rejects + other.rejects,
            bytes=self.bytes + other.bytes,
            seconds=self.seconds + other.seconds,
            backward_seconds=self.backward_seconds + other.backward_seconds,
            stored_bytes=self.stored_bytes + other.stored_bytes,
            writing_seconds=self.writing_seconds + other.writing_seconds,
        )
