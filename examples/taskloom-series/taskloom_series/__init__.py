"""SERIES: numbers over time, such as a sensor's, become windows of points."""

from __future__ import annotations

from dataclasses import dataclass, field

from taskloom.graph.attribute import Attribute
from taskloom.graph.errors import PlanError, Problem
from taskloom.graph.recipe import Adapter, Part, Request
from taskloom.graph.vocabulary import Block
from taskloom.ops.plugin import Plugin

from .host import ResampleSeries

ATTRIBUTES = (
    Attribute("points", int, low=2, high=65_536, default=64, doc="Points that are kept of each."),
    Attribute("window", int, low=1, high=4096, default=16, doc="Points of one position."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRecipe:
    """How SERIES slots become windows."""

    attributes: tuple[Attribute, ...] = field(default=ATTRIBUTES, init=False)
    blocks: tuple[Block, ...] = field(default=(), init=False)

    def source(self, request: Request) -> Part:
        """Resample the column; every window takes one position of the document."""
        points, window = (int(request.attributes[name]) for name in ("points", "window"))
        if points % window:
            message = f"{points} points cannot be cut in windows of {window}"
            help_ = "choose a window that divides them"
            raise PlanError(Problem("S0001", message, help_, (request.site,)))
        assert request.column is not None, "a source slot always has a column"
        series = request.chain(request.column, "resample", ResampleSeries(points=points))
        name = f"series_{points}_{window}"
        params = {"points": points, "window": window}
        adapter = Adapter(op="embed_windows", params=params, scope=f"adapter.{name}")
        return Part(value=series, lane=name, length=points // window, adapter=adapter)

    def target(self, request: Request) -> Part:
        """Refuse: nothing writes series yet."""
        message = "SERIES cannot be a target yet"
        raise PlanError(Problem("S0002", message, "use it left of the arrow", (request.site,)))


PLUGIN = Plugin(
    host_ops=(ResampleSeries,),
    device_ops={"embed_windows": "taskloom_series.device:EmbedWindows"},
    recipes={"SERIES": SeriesRecipe()},
    examples="taskloom_series.examples:EXAMPLES",
)
