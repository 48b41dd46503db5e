"""Distributions as pip leaves them behind: a package, and the metadata that names its plug-in."""

from __future__ import annotations

from pathlib import Path

# One host op, one device op and a recipe, as small as they can be.
HOST_OP = '''
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar
import pyarrow as pa
import pyarrow.compute as pc
from taskloom.graph.op import Traits
from taskloom.graph.type import Port, Signature

@dataclass(frozen=True, slots=True)
class NegateNumbers:
    """Turn the sign of numbers."""

    traits: ClassVar[Traits] = Traits("negate_numbers", version=1)

    @property
    def signature(self) -> Signature:
        """Numbers in, numbers out."""
        number = Port("number", "float64")
        return Signature(inputs={"numbers": number}, outputs={"out": number})

    def __call__(self, numbers: pa.Array) -> pa.Array:
        """Return the numbers with the other sign."""
        return pc.negate(numbers)
'''
DEVICE_OP = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from torch import Tensor
from taskloom.graph.op import Traits
from taskloom.graph.type import Layout, Place, Port, Signature

@dataclass(frozen=True, slots=True)
class DoubleNumbers:
    """Double numbers."""

    traits: ClassVar[Traits] = Traits("double_numbers", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Numbers in, numbers out."""
        number = Port("number", "float32", ("N",), Layout.PACKED)
        return Signature(inputs={"numbers": number}, outputs={"out": number})

    def module(self) -> None:
        """Build nothing."""

    def __call__(self, _module: None, numbers: Tensor) -> Tensor:
        """Return twice the numbers."""
        return 2 * numbers
'''
RECIPE = """
from __future__ import annotations
from dataclasses import dataclass, field
from taskloom.graph.attribute import Attribute
from taskloom.graph.recipe import Part, Request
from taskloom.graph.vocabulary import Block
from taskloom.ops.plugin import Plugin
from .host import NegateNumbers

@dataclass(frozen=True, slots=True)
class NumberRecipe:
    attributes: tuple[Attribute, ...] = field(default=(), init=False)
    blocks: tuple[Block, ...] = (Block("number", 10),)

    def source(self, request: Request) -> Part:
        assert request.column is not None
        return Part(value=request.column, block="number")

    def target(self, request: Request) -> Part:
        return self.source(request)

PLUGIN = Plugin(
    host_ops=(NegateNumbers,),
    device_ops={"double_numbers": "%(package)s.device:DoubleNumbers"},
    recipes={"MOTION": NumberRecipe()},
)
"""


def write_package(folder: Path, package: str, **files: str) -> None:
    """Write a distribution into ``folder`` as pip would; ``files`` replace those of a sound one.

    Args:
        folder: Where it is installed.
        package: Name of the distribution and its package.
        files: Text of the modules ``init``, ``host`` and ``device``.
    """
    texts = {"init": RECIPE, "host": HOST_OP, "device": DEVICE_OP} | files
    root = folder / package
    root.mkdir()
    for name, text in texts.items():
        file = root / ("__init__.py" if name == "init" else f"{name}.py")
        file.write_text(text.replace("%(package)s", package), "utf-8")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[taskloom.ops]\n{package} = {package}:PLUGIN\n")
