"""Constants: plain text, ids that were folded, and artifacts that exist.

A constant is the same for every row and is stored with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from ...graph.op import Traits
from ...graph.type import Layout, Port, Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeTexts:
    """The plain text of an instruction."""

    text: str
    traits: ClassVar[Traits] = Traits("make_texts", version=1)

    @property
    def signature(self) -> Signature:
        """Nothing in, one text out."""
        return Signature(inputs={}, outputs={"out": Port("text", "string", (), Layout.CONST)})

    def __call__(self) -> pa.Array:
        """Return the text as an array of length 1."""
        return pa.array([self.text], pa.string())


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeIds:
    """Ids known at plan time, relative to their block."""

    ids: tuple[int, ...]
    kind: str = "text"
    dtype: str = "uint16"
    traits: ClassVar[Traits] = Traits("make_ids", version=1)

    @property
    def signature(self) -> Signature:
        """Nothing in, one list of ids out."""
        return Signature(
            inputs={}, outputs={"out": Port(self.kind, self.dtype, ("T",), Layout.CONST)}
        )

    def __call__(self) -> pa.Array:
        """Return the ids as a list array of length 1."""
        return pa.array([self.ids], pa.list_(pa.type_for_alias(self.dtype)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadArtifacts:
    """An artifact that exists, named by the digest of its content.

    The loading itself is the caller's: an op knows no store. An empty digest stands for an artifact that
    is still to be fitted.
    """

    kind: str
    digest: str
    traits: ClassVar[Traits] = Traits("load_artifacts", version=1)

    @property
    def signature(self) -> Signature:
        """Nothing in, one artifact out."""
        return Signature(inputs={}, outputs={"out": Port(self.kind, "artifact", (), Layout.CONST)})
