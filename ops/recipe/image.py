"""IMAGE: a column of pictures becomes squares of pixels, stored as bytes and cut in patches on the device."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...graph.attribute import Attribute
from ...graph.errors import PlanError, Problem
from ...graph.modality import MODALITIES
from ...graph.recipe import Adapter, Part, Request
from ...graph.vocabulary import Block
from ..host.image import DecodeImages, ResizeImages

ATTRIBUTES = MODALITIES["IMAGE"].select(
    "size", "patch", preprocess=("image",), adapter=("image_patch_embed",)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecipe:
    """How IMAGE slots become patches."""

    attributes: tuple[Attribute, ...] = field(default=ATTRIBUTES, init=False)
    blocks: tuple[Block, ...] = field(default=(), init=False)

    def source(self, request: Request) -> Part:
        """Decode and resize the column; every patch takes one position of the document."""
        size, patch = (int(request.attributes[name]) for name in ("size", "patch"))
        if size % patch:
            message = f"{size} pixels cannot be cut in patches of {patch}"
            help_ = f"choose a size that is a multiple, such as {-(-size // patch) * patch}"
            raise PlanError(Problem("T0216", message, help_, (request.site,)))
        assert request.column is not None, "a source slot always has a column"
        decoded = request.chain(request.column, "decode", DecodeImages())
        resized = request.chain(decoded, "resize", ResizeImages(height=size, width=size))
        adapter = Adapter(
            op="embed_patches",
            params={"height": size, "width": size, "patch": patch},
            scope=f"adapter.image_patch_{size}_{patch}",
        )
        lane = f"image_{size}_{patch}"
        return Part(value=resized, lane=lane, length=(size // patch) ** 2, adapter=adapter)

    def target(self, request: Request) -> Part:
        """Refuse: nothing writes images yet."""
        message = "IMAGE cannot be a target yet"
        raise PlanError(Problem("T0231", message, "use it left of the arrow", (request.site,)))
