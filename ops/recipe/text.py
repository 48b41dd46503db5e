"""TEXT: a column of text becomes ids of a byte-level vocabulary.

Source: OFASys, ``preprocessor/default/text.py``, for one vocabulary shared by prompts, source and target, and
for ``closed_set``; the vocabulary here is fitted on the training rows unless files are given. Noise
comes before masks, as there; the id of a mask is the first past the block, and has a block of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...graph.attribute import Attribute
from ...graph.errors import PlanError, Problem
from ...graph.modality import MODALITIES
from ...graph.node import Value
from ...graph.recipe import Fit, Part, PromptRequest, Request
from ...graph.vocabulary import Block
from ..host.bpe import EncodeTexts, FitBpe
from ..host.closed_set import FitClosedSet, RestrictTexts
from ..host.noise import MaskSpans, ReplaceIds
from ..host.text import FormatTexts, NormalizeTexts, StripTexts

BLOCK = "text"
MASK = Block("mask", 1)
BPE = "bpe-main"

ATTRIBUTES = MODALITIES["TEXT"].select(
    "closed_set",
    "max_length",
    "uncased",
    "no_punctuation",
    "verbatim",
    "disable_auto_boseos",
    "no_loss",
    "loss_weight",
    "noise_ratio",
    "mask_ratio",
    "poisson_lambda",
    "replace_length",
    "random_ratio",
    preprocess=("text",),
    adapter=("text",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecipe:
    """How TEXT slots and plain text become ids.

    Attributes:
        size: Number of ids of the vocabulary, the 256 bytes among them.
    """

    size: int = 4096
    attributes: tuple[Attribute, ...] = field(default=ATTRIBUTES, init=False)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The block of the vocabulary that text ids are relative to."""
        return (Block(BLOCK, self.size),)

    def source(self, request: Request) -> Part:
        """Normalise or strip, and encode the column; replace and mask ids in training."""
        assert request.column is not None, "a source slot always has a column"
        texts = self._normalize(request)
        ids = self._add_noise(request, self._encode(request, texts, texts))
        is_masked = bool(request.attributes["mask_ratio"])
        return Part(
            value=self._mask(request, ids) if is_masked else ids,
            block=BLOCK,
            beyond=MASK if is_masked else None,
            has_ends=not request.attributes.get("disable_auto_boseos"),
        )

    def target(self, request: Request) -> Part:
        """Normalise, check against the closed set if there is one, and encode the column."""
        if request.attributes.get("disable_auto_boseos"):
            message = "a target always stands between BOS and EOS"
            help_ = "drop disable_auto_boseos here, or set it on a source slot"
            raise PlanError(Problem("T0215", message, help_, (request.site,)))
        if request.attributes["mask_ratio"]:
            message = "mask_ratio masks what is read, and nothing that is written"
            help_ = (
                "set it on the source slot of the same name: [TEXT:a,mask_ratio=0.3] -> [TEXT:a]"
            )
            raise PlanError(Problem("T0215", message, help_, (request.site,)))
        learned = texts = None if request.column is None else self._normalize(request)
        answers = None
        if request.attributes.get("closed_set"):
            inputs = {} if texts is None else {"texts": texts, **_splits(request.splits)}
            answers = request.fit(f"closed-set-{request.address}", FitClosedSet(), inputs)
            if texts is not None:
                texts = request.chain(texts, "restrict", RestrictTexts(), closed_set=answers)
        # The vocabulary learns from texts as they are before the check, so that no fit waits for another.
        value = None if texts is None or learned is None else self._encode(request, texts, learned)
        return Part(
            value=value,
            block=BLOCK,
            answers=answers,
            is_given=bool(request.attributes.get("no_loss")),
            weight=float(request.attributes.get("loss_weight", 1.0)),
            is_free=answers is None,
        )

    def prompt(self, request: PromptRequest) -> Part:
        """Encode plain text, which is the same for every row."""
        bpe = self._bpe(request.fit, request.text, request.splits)
        value = request.draft.add(
            EncodeTexts(dtype=self._dtype),
            {"texts": request.text, "bpe": bpe},
            address=f"{request.address}/encode",
            sites=[request.site],
        )
        return Part(value=value, block=BLOCK)

    @property
    def _dtype(self) -> str:
        return "uint16" if self.size <= 1 << 16 else "uint32"

    def _normalize(self, request: Request) -> Value:
        assert request.column is not None, "asked for only where there is a column"
        given = request.attributes
        is_lowercase, is_bare = bool(given.get("uncased")), bool(given.get("no_punctuation"))
        formatted = request.chain(request.column, "format", FormatTexts())
        if given.get("verbatim"):
            if is_bare:
                message = "verbatim keeps what no_punctuation drops"
                raise PlanError(Problem("T0254", message, "drop one of them", (request.site,)))
            return request.chain(formatted, "strip", StripTexts(is_lowercase=is_lowercase))
        op = NormalizeTexts(is_lowercase=is_lowercase, has_punctuation=not is_bare)
        return request.chain(formatted, "normalize", op)

    def _encode(self, request: Request, texts: Value, learned: Value) -> Value:
        length = request.attributes.get("max_length")
        op = EncodeTexts(dtype=self._dtype, max_length=None if length is None else int(length))
        bpe = self._bpe(request.fit, learned, request.splits)
        return request.chain(texts, "encode", op, bpe=bpe)

    def _add_noise(self, request: Request, ids: Value) -> Value:
        if not (ratio := float(request.attributes["noise_ratio"])):
            return ids
        op = ReplaceIds(ratio=ratio, num_ids=self.size, dtype=self._dtype)
        return request.chain(ids, "noise", op)

    def _mask(self, request: Request, ids: Value) -> Value:
        given = request.attributes
        op = MaskSpans(
            ratio=float(given["mask_ratio"]),
            mask_id=self.size,
            num_ids=self.size,
            mean_span=float(given["poisson_lambda"]),
            replace_length=int(given["replace_length"]),
            random_ratio=float(given["random_ratio"]),
            dtype=self._dtype,
        )
        return request.chain(ids, "mask", op)

    def _bpe(self, fit: Fit, texts: Value, splits: Value | None) -> Value:
        return fit(BPE, FitBpe(size=self.size), {"texts": texts, **_splits(splits)})


def _splits(splits: Value | None) -> dict[str, Value]:
    return {} if splits is None else {"splits": splits}
