"""The modalities: what a slot may hold, and which attributes such slots have.

This table is the language's, whatever is planned of it as yet: an attribute that is not in it is a mistake, and
is refused where it is written. A recipe carries out some of a modality's attributes; it picks them with
`Modality.select`, so that name, type, range and side of each stand here alone. A recipe of a third party may
bring attributes of its own, and its modality (`extend`).

Source: OFASys, for the nine modalities and for what their attributes mean (arXiv:2212.04408, and
``preprocessor/`` and ``adaptor/`` of its code); ``size``, ``patch``, ``verbatim`` and ``loss_weight`` are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from .attribute import Attribute
from .errors import PlanError, Problem, suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class Modality:
    """What a slot may hold.

    Attributes:
        name: How slots name it; upper case.
        doc: What its values are, in one sentence.
        attributes: The attributes of its slots, by name.
    """

    name: str
    doc: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])

    @classmethod
    def of(cls, name: str, attributes: Iterable[Attribute], doc: str = "") -> Modality:
        """Return the modality whose slots have ``attributes``."""
        return cls(name=name, doc=doc, attributes={one.name: one for one in attributes})

    def select(self, *names: str, **choices: tuple[str, ...]) -> tuple[Attribute, ...]:
        """Return the attributes that a recipe carries out.

        Args:
            names: Those that it carries out whatever their value.
            choices: Those of which it carries out some choices only, and which.

        Raises:
            PlanError: The modality has no such attribute.
        """
        for name in (*names, *choices):
            if name not in self.attributes:
                raise PlanError(self.refuse(name))
        whole = tuple(self.attributes[name] for name in names)
        return (*whole, *(replace(self.attributes[n], choices=some) for n, some in choices.items()))

    def refuse(self, key: str, others: Iterable[Modality] = ()) -> Problem:
        """Return the problem of an attribute that its slots do not have; its place is not filled in.

        Args:
            key: The attribute's name.
            others: Modalities whose slots may have it.
        """
        message = f'{self.name} slots have no attribute "{key}"'
        advice = suggest(key, self.attributes)
        having = [other.name for other in others if key in other.attributes]
        if having and not advice.startswith("did"):
            advice += f"\nslots that have it: {', '.join(having)}"
        return Problem("T0120", message, advice)


def extend(
    modalities: Mapping[str, Modality], attributes: Mapping[str, Iterable[Attribute]]
) -> Mapping[str, Modality]:
    """Return ``modalities`` with what recipes add to them.

    Args:
        modalities: The table so far.
        attributes: The attributes of the recipe of each modality. Those that the table has keep every choice
            that it knows; modalities that it does not have are added.
    """
    added: dict[str, Modality] = {}
    for name, own in attributes.items():
        known = modalities.get(name, Modality(name=name))
        new = {one.name: _join(known.attributes.get(one.name), one) for one in own}
        is_changed = any(known.attributes.get(key) is not one for key, one in new.items())
        if is_changed or name not in modalities:
            added[name] = replace(known, attributes={**known.attributes, **new})
    return {**modalities, **added} if added else modalities


def _join(known: Attribute | None, own: Attribute) -> Attribute:
    if known is None or known == own:
        return known or own
    choices = tuple(dict.fromkeys(known.choices + own.choices))
    joined = replace(own, choices=choices if known.choices and own.choices else ())
    return known if joined == known else joined


def _select(preprocess: tuple[str, ...], adapter: tuple[str, ...]) -> tuple[Attribute, ...]:
    """Return the attributes of every modality, the names of its variants filled in."""
    return (
        Attribute("preprocess", str, choices=preprocess, doc="How values are made ready."),
        Attribute("adapter", str, choices=adapter, doc="How values become tokens."),
        Attribute(
            "no_loss",
            bool,
            side="target",
            doc="The model is given the value and does not learn to write it.",
        ),
        Attribute(
            "loss_weight",
            float,
            low=0,
            is_open=True,
            default=1.0,
            side="target",
            doc="Share of the slot's loss, against 1 for other slots.",
        ),
    )


_UNCASED = Attribute("uncased", bool, doc="Texts are read in lower case.")
_NO_PUNCTUATION = Attribute("no_punctuation", bool, doc="Punctuation is dropped.")
_VERBATIM = Attribute(
    "verbatim", bool, doc="Texts are read as they are, without white space at their ends."
)
_BARE = Attribute(
    "disable_auto_boseos",
    bool,
    doc="No BOS and EOS are put around the slot and the text beside it.",
)


def _mask(what: str, side: str | None = None) -> Attribute:
    assert side in (None, "source"), "what is written is never masked alone"
    return Attribute("mask_ratio", float, low=0, high=1, default=0.0, side=side, doc=what)


_TEXT = (
    Attribute(
        "closed_set",
        bool,
        side="target",
        doc="The answer is one of those that occur in training rows.",
    ),
    Attribute(
        "max_length", int, low=1, high=1 << 20, doc="Ids kept of each text; the rest is cut."
    ),
    _UNCASED,
    _NO_PUNCTUATION,
    Attribute(
        "noise_ratio",
        float,
        low=0,
        high=1,
        default=0.0,
        doc="Share of the ids that are replaced by random ones in training.",
    ),
    _mask("Share of the text that is masked in training, in spans."),
    Attribute(
        "poisson_lambda",
        float,
        low=0,
        high=32,
        is_open=True,
        default=3.0,
        doc="Mean length of the spans that are masked, in ids.",
    ),
    Attribute(
        "replace_length",
        int,
        low=-1,
        high=1,
        default=-1,
        doc="What a masked span becomes: -1 a mask for each of its ids, 1 one mask, 0 nothing.",
    ),
    Attribute(
        "random_ratio",
        float,
        low=0,
        high=1,
        default=0.0,
        doc="Share of the masks that are random ids instead.",
    ),
    _BARE,
)


def _table(*modalities: Modality) -> Mapping[str, Modality]:
    return MappingProxyType({modality.name: modality for modality in modalities})


MODALITIES: Final[Mapping[str, Modality]] = _table(
    Modality.of(
        "TEXT",
        (*_TEXT, _VERBATIM, *_select(("text", "text_phone"), ("text",))),
        "Text, of any language.",
    ),
    Modality.of(
        "IMAGE",
        (
            Attribute(
                "size", int, low=1, high=4096, default=64, doc="Side of the square, in pixels."
            ),
            Attribute("patch", int, low=1, high=512, default=16, doc="Side of a patch, in pixels."),
            _mask("Share of the picture's side that is blanked, in its middle.", "source"),
            Attribute("length", int, low=1, doc="Codes kept of an image that is given as codes."),
            *_select(
                ("image", "imagenet", "imagepretrain", "image_vqgan"),
                ("image_resnet", "image_vit", "image_patch_embed", "image_vqgan"),
            ),
        ),
        "A picture.",
    ),
    Modality.of(
        "BOX",
        (_BARE, *_select(("box",), ("text",))),
        "Regions of a picture: corners in pixels.",
    ),
    Modality.of(
        "AUDIO",
        (
            Attribute("n_frames_per_step", int, low=1, doc="Frames of sound in one position."),
            Attribute(
                "use_mask", bool, side="source", doc="Spans of time and of channels are masked."
            ),
            *_select(("audio", "audio_embed"), ("audio_fbank", "audio_tgt_fbank")),
        ),
        "Sound.",
    ),
    Modality.of(
        "MOTION",
        (
            Attribute("max_length", int, low=1, default=1000, doc="Frames kept of each motion."),
            Attribute(
                "min_length", int, low=1, default=10, doc="Frames below which a row is left out."
            ),
            Attribute("sample_rate", int, low=1, default=1, doc="One frame in so many is kept."),
            Attribute(
                "soft_trim",
                float,
                low=0,
                high=1,
                is_open=True,
                doc="Share that is cut off both ends, drawn anew each time.",
            ),
            Attribute("window", bool, doc="A random stretch of the motion is used."),
            Attribute(
                "anchor_frame", int, low=0, doc="Frame whose place and direction become the origin."
            ),
            *_select(("motion_6d",), ("motion_6d", "text")),
        ),
        "Movement of a body: joints over time.",
    ),
    Modality.of(
        "PHONE",
        (
            _mask("Share of the phones that are masked in training.", "source"),
            _BARE,
            *_select(("phone",), ("text",)),
        ),
        "Phones of speech.",
    ),
    Modality.of("VIDEO", _select(("video",), ("video_image_sequence",)), "A film."),
    Modality.of(
        "STRUCT", (*_TEXT, *_select(("table", "database"), ("text",))), "A table, or a database."
    ),
    Modality.of(
        "CATEGORY",
        (_UNCASED, _NO_PUNCTUATION, *_select(("category",), ("text",))),
        "One of a fixed set of names.",
    ),
)
"""The modalities of OFASys, by name."""
