"""BOX: a column of regions becomes four ids each, of a block of 1000 bins.

Source: OFASys, ``preprocessor/default/box.py``. There a picture is stretched to a square together with its
first box; here bins are counted along the picture as it is given, so any number of boxes may stand anywhere,
the picture may have any size, and what is read at inference is the box that was given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...graph.attribute import Attribute
from ...graph.errors import PlanError, Problem
from ...graph.modality import MODALITIES
from ...graph.node import Value
from ...graph.recipe import Part, Request
from ...graph.vocabulary import Block
from ..host.box import NUM_BINS, NUM_CORNERS, MeasureImages, QuantizeBoxes, RepeatSizes
from ..host.image import DecodeImages

BLOCK = "bin"
PICTURE = "IMAGE"
"""The modality whose first slot is the picture that boxes lie in."""

ATTRIBUTES = MODALITIES["BOX"].select(
    "disable_auto_boseos",
    "no_loss",
    "loss_weight",
    preprocess=("box",),
    adapter=("text",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRecipe:
    """How BOX slots become ids."""

    attributes: tuple[Attribute, ...] = field(default=ATTRIBUTES, init=False)
    blocks: tuple[Block, ...] = field(default=(Block(BLOCK, NUM_BINS),), init=False)

    def source(self, request: Request) -> Part:
        """Quantise the column."""
        has_ends = not request.attributes.get("disable_auto_boseos")
        return Part(value=self._quantize(request), block=BLOCK, has_ends=has_ends)

    def target(self, request: Request) -> Part:
        """Quantise the column; what is written has four ids as well."""
        if request.attributes.get("disable_auto_boseos"):
            message = "a target always stands between BOS and EOS"
            help_ = "drop disable_auto_boseos here, or set it on a source slot"
            raise PlanError(Problem("T0215", message, help_, (request.site,)))
        return Part(
            value=self._quantize(request),
            block=BLOCK,
            is_given=bool(request.attributes.get("no_loss")),
            weight=float(request.attributes.get("loss_weight", 1.0)),
            num_ids=NUM_CORNERS,
        )

    def _quantize(self, request: Request) -> Value | None:
        if request.column is None:
            return None

        def measure(picture: Value, address: str) -> Value:
            draft, sites = request.draft, [request.site]
            decode = {"values": picture}
            decoded = draft.add(DecodeImages(), decode, address=f"{address}/decode")
            given = {"images": decoded}
            return draft.add(MeasureImages(), given, address=f"{address}/measure", sites=sites)

        sizes = request.beside(PICTURE, measure, RepeatSizes())
        op = QuantizeBoxes(has_pictures=sizes is not None)
        more = {} if sizes is None else {"sizes": sizes}
        return request.chain(request.column, "quantize", op, **more)
