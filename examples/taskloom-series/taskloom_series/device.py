"""Windows of series as tokens.

Shape letters: I = series, W = windows of a series, X = points of a window, C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from taskloom.graph.op import Traits
from taskloom.graph.type import Layout, Place, Port, Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedWindows:
    """Cut series into windows and make each a token.

    Attributes:
        points: Points of a series.
        window: Points of a window; divides ``points``.
        model_width: Channels of a token.
    """

    points: int
    window: int
    model_width: int
    traits: ClassVar[Traits] = Traits("embed_windows", version=1, place=Place.DEVICE)

    @property
    def signature(self) -> Signature:
        """Series in, tokens out."""
        series = Port("series", "float32", ("I", self.points), Layout.PACKED)
        shape = ("I", self.points // self.window, self.model_width)
        return Signature(
            inputs={"series": series},
            outputs={"out": Port("hidden", "float32", shape, Layout.PACKED)},
        )

    def module(self) -> nn.Linear:
        """Build the projection of a window's points."""
        return nn.Linear(self.window, self.model_width)

    def __call__(self, module: nn.Linear, series: Tensor) -> Tensor:
        """Return tokens, shape ``(I, W, C)``."""
        windows_IWX = series.to(module.weight.dtype).unflatten(1, (-1, self.window))
        return module(windows_IWX)
