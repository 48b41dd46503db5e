"""The recipes of the modalities. To add one, write its module and name it in `RECIPES`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ...graph.recipe import Recipe
from .box import BoxRecipe
from .image import ImageRecipe
from .text import TextRecipe

RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "TEXT": TextRecipe(),
        "IMAGE": ImageRecipe(),
        "BOX": BoxRecipe(),
    }
)
"""In the order of their blocks in a vocabulary: a new one is appended."""
