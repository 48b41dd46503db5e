"""Spellings of OFASys that ours replace: understood, and warned of.

Its documents and its code disagree with each other in places: ``preprocessor=`` and ``is_label`` stand in the
documents and were dropped without a word, ``[BOUNDING_BOX]`` became plain text. Here they mean what was meant.

Source: OFASys, ``docs/source/task`` and ``docs/source/concept/plan.rst`` for the documented spellings,
``task/base.py`` for the obsolete ones, ``io/reader/utils.py`` for ``|||``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

PROBLEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "T0125": "legacy name of an attribute",
        "T0126": "legacy attribute that says nothing",
        "T0127": "legacy name of a modality",
        "T0128": "legacy mark between templates",
    }
)
"""What warnings are about, by code."""

LEGACY_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType(
    {"adaptor": "adapter", "preprocessor": "preprocess", "is_label": "closed_set"}
)
"""Our name of an attribute, by its legacy name."""

SILENT_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType(
    {"add_bos": "a BOS", "add_eos": "an EOS"}
)
"""What is always there, by the attribute that asks for it."""

LEGACY_MODALITIES: Final[Mapping[str, str]] = MappingProxyType({"BOUNDING_BOX": "BOX"})
"""Our name of a modality, by its legacy name."""

BETWEEN_TEMPLATES: Final = "|||"
"""What stands between the templates of a task that are written as one text."""
