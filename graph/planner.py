"""From tasks to one graph: slots follow their recipes, plain text becomes a constant.

For each task the planner reads the columns that its slots name, lets every modality's recipe add its chain of
ops, and joins the parts in one *document* per row. A document knows what it is made of, in order: special ids,
ids of a column, positions of a tensor. All documents of a mixture meet in one *pack*; what follows the pack is
the device half, which the caller's architecture adds.

The parts of one row must carry one row set: a document is where a graph that paired the wrong rows would show,
and the check of types refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from .draft import Draft
from .errors import PlanError, Problem, Site, Span, TaskloomError, suggest
from .fit import Fits
from .instruction import Instruction, Slot, Text
from .node import Value
from .op import Catalogue, Op, Plain
from .recipe import (
    Adapter,
    AttributeValue,
    Part,
    Pinned,
    PromptRecipe,
    PromptRequest,
    Recipe,
    Request,
)
from .resolve import fill_defaults, resolve_attributes
from .vocabulary import BOS, EOS

PROMPT_MODALITY = "TEXT"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What the planner must know of a task.

    Attributes:
        name: Name of the task, the first part of its nodes' addresses.
        instruction: The parsed instruction.
        source: Row set: the name of the source.
        columns: Element type of every column of the source; None while no source is known.
        key: Column by whose hash rows are held out.
        test: Share of the keys that is held out for tests.
        valid: Share of the other keys that is held out for validation.
        where: Filters: a column, and the op that makes a boolean of it.
        defaults: Attributes by modality, for slots that do not set them.
    """

    name: str
    instruction: Instruction
    source: str
    columns: Mapping[str, str] | None = None
    key: str = ""
    test: float = 0.0
    valid: float = 0.0
    where: Sequence[tuple[str, Op]] = ()
    defaults: Mapping[str, Mapping[str, AttributeValue]] = field(
        default_factory=dict[str, Mapping[str, AttributeValue]]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A stream of tensors of one shape, and how it enters the model.

    Attributes:
        kind: What the tensors are, such as ``"image"``.
        dtype: Element type.
        shape: Shape of one tensor.
        length: Positions that each tensor takes in its document.
        adapter: The device op that makes them tokens.
    """

    kind: str
    dtype: str
    shape: tuple[int | str, ...]
    length: int
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class Planned:
    """The host half of a mixture.

    Attributes:
        draft: The nodes so far.
        documents: The document of each task.
        fits: The node of each artifact that is still to be fitted.
        lanes: The lanes of tensors that documents use.
    """

    draft: Draft
    documents: dict[str, Value] = field(default_factory=dict[str, Value])
    fits: dict[str, Value] = field(default_factory=dict[str, Value])
    lanes: dict[str, Lane] = field(default_factory=dict[str, Lane])


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """The tables that planning reads.

    Attributes:
        catalogue: The ops.
        recipes: The recipe of each modality.
        pinned: Artifacts that exist, by name.
        is_inference: Whether target slots are to be written by the model rather than read.
    """

    catalogue: Catalogue
    recipes: Mapping[str, Recipe]
    pinned: Mapping[str, Pinned] = field(default_factory=dict[str, Pinned])
    is_inference: bool = False

    def plan(self, specs: Sequence[TaskSpec]) -> Planned:
        """Plan the host half of all tasks.

        Raises:
            TaskloomError: Some tasks cannot be planned; all their problems are shown together.
        """
        draft = Draft(self.catalogue)
        fits = Fits(draft, self.pinned, is_inference=self.is_inference)
        planned = self._plan_all(specs, draft, fits)
        if fits.are_open:
            # Everything a fit reads is known only now: plan again, reading the fits' outputs.
            fits.close()
            planned = self._plan_all(specs, draft, fits)
        planned.fits.update(fits.values)
        return planned

    def _plan_all(self, specs: Sequence[TaskSpec], draft: Draft, fits: Fits) -> Planned:
        planned = Planned(draft)
        problems: list[Problem] = []
        for spec in specs:
            try:
                _TaskPlan(self, spec, planned, fits).add_document()
            except TaskloomError as error:
                problems += error.problems
        if problems:
            raise PlanError(*problems)
        return planned


@dataclass(frozen=True, slots=True)
class _TaskPlan:
    """One task being planned."""

    planner: Planner
    spec: TaskSpec
    planned: Planned
    fits: Fits

    @property
    def draft(self) -> Draft:
        return self.planned.draft

    def add_document(self) -> None:
        """Add the task's nodes, its document the last of them."""
        instruction = self.spec.instruction
        if not self.planner.is_inference:
            self._refuse_unknown_columns()
        splits = None if self.planner.is_inference else self._splits()
        keeps = [] if splits is None else self._filters()
        learned = None if splits is None else self._masked(splits, keeps)
        inputs: dict[str, Value] = {}
        params: dict[str, tuple[Mapping[str, Plain], ...]] = {}
        for side, items in (("source", instruction.source), ("target", instruction.target)):
            planned = self._parts(items, side, learned)
            _refuse_several_targets(planned, side, self.spec)
            params[side] = _lay_out(planned, side, inputs)
            self._note_lanes(part for _, part in planned)
        if splits is not None:
            inputs["split"] = splits
            inputs |= {f"keep.{i}": keep for i, keep in enumerate(keeps)}
        op = self.planner.catalogue["compose_documents"](**params)
        site = self._site(Span(0, len(instruction.text)))
        address = f"{self.spec.name}/document"
        self.planned.documents[self.spec.name] = self.draft.add(
            op, inputs, address=address, sites=[site]
        )

    def _note_lanes(self, parts: Iterable[Part]) -> None:
        for part in parts:
            if part.lane and part.value is not None and part.adapter is not None:
                type_ = self.draft.type_of(part.value)
                self.planned.lanes[part.lane] = Lane(
                    kind=type_.kind,
                    dtype=type_.dtype,
                    shape=type_.shape,
                    length=part.length,
                    adapter=part.adapter,
                )

    def _parts(
        self, items: Iterable[object], side: str, splits: Value | None
    ) -> list[tuple[Slot | Text, Part]]:
        parts: list[tuple[Slot | Text, Part]] = []
        problems: list[Problem] = []
        for item in items:
            try:
                if isinstance(item, Text):
                    parts += [(item, self._prompt(item, splits))] if item.text.strip() else []
                elif isinstance(item, Slot):
                    parts.append((item, self._slot(item, side, splits)))
                else:
                    raise self._not_planned(item)
            except TaskloomError as error:
                problems += error.problems
        if problems:
            raise PlanError(*problems)
        return parts

    def _slot(self, slot: Slot, side: str, splits: Value | None) -> Part:
        site = self._site(slot.span)
        recipe = self.planner.recipes.get(slot.modality)
        if recipe is None:
            known = ", ".join(sorted(self.planner.recipes))
            message = f"{slot.modality} slots cannot be planned yet: they have no recipe"
            help_ = f"modalities with a recipe: {known}\none file adds a recipe: docs/adding-a-modality.md"
            raise PlanError(Problem("T0231", message, help_, (site,)))
        defaults = self.spec.defaults.get(slot.modality, {})
        full = fill_defaults(slot, defaults, recipe.attributes)
        is_read = side == "source" or not self.planner.is_inference
        request = Request(
            draft=self.draft,
            slot=slot,
            attributes=resolve_attributes(full, recipe.attributes, site),
            column=self._read(slot.name, f"{self.spec.name}.{slot.name}", site)
            if is_read
            else None,
            splits=splits,
            address=f"{self.spec.name}.{slot.name}",
            site=site,
            fit=self.fits.fit,
        )
        return recipe.source(request) if side == "source" else recipe.target(request)

    def _prompt(self, text: Text, splits: Value | None) -> Part:
        recipe = cast("PromptRecipe", self.planner.recipes[PROMPT_MODALITY])
        site = self._site(text.span)
        address = f"{self.spec.name}.text@{text.span.start}"
        value = self.draft.add(
            self.planner.catalogue["make_texts"](text=text.text), address=address, sites=[site]
        )
        return recipe.prompt(
            PromptRequest(
                draft=self.draft,
                text=value,
                splits=splits,
                address=address,
                site=site,
                fit=self.fits.fit,
            )
        )

    def _read(self, column: str, address: str, site: Site) -> Value:
        dtype = "any" if self.spec.columns is None else self.spec.columns[column]
        op = self.planner.catalogue["read_columns"](column=column, dtype=dtype)
        return self.draft.add(op, rows=self.spec.source, address=address, sites=[site])

    def _splits(self) -> Value:
        spec, catalogue = self.spec, self.planner.catalogue
        site = self._site(Span(0, len(spec.instruction.text)))
        address = f"{spec.name}/split"
        read = self.draft.add(
            catalogue["read_splits"](), rows=spec.source, address=f"{address}/read"
        )
        if not spec.key:
            return read
        op = catalogue["assign_splits"](test=spec.test, valid=spec.valid)
        key = self._read(spec.key, f"{spec.name}/key", site)
        return self.draft.add(op, {"split": read, "key": key}, address=address, sites=[site])

    def _masked(self, splits: Value, keeps: Iterable[Value]) -> Value:
        """Return the splits that artifacts are fitted by: rows that a filter leaves out are in none."""
        op = self.planner.catalogue["mask_splits"]
        for keep in keeps:
            address = f"{self.spec.name}/split/mask"
            splits = self.draft.add(op(), {"split": splits, "keep": keep}, address=address)
        return splits

    def _filters(self) -> list[Value]:
        site = self._site(Span(0, len(self.spec.instruction.text)))
        keeps: list[Value] = []
        for column, op in self.spec.where:
            read = self._read(column, f"{self.spec.name}/where.{column}", site)
            address = f"{self.spec.name}/where.{column}/compare"
            keeps.append(self.draft.add(op, {"values": read}, address=address, sites=[site]))
        return keeps

    def _refuse_unknown_columns(self) -> None:
        spec = self.spec
        if spec.columns is None:
            return
        wanted = [(slot.name, self._site(slot.span)) for slot in spec.instruction.slots]
        whole = self._site(Span(0, len(spec.instruction.text)))
        wanted += [(column, whole) for column in (spec.key, *(c for c, _ in spec.where)) if column]
        problems = [
            Problem(
                "T0212",
                f'source "{spec.source}" has no column "{column}"',
                suggest(column, spec.columns),
                (site,),
                address=spec.name,
                column=column,
            )
            for column, site in wanted
            if column not in spec.columns
        ]
        if problems:
            raise PlanError(*problems)

    def _site(self, span: Span) -> Site:
        return Site(self.spec.instruction.label, self.spec.instruction.text, span)

    def _not_planned(self, item: object) -> PlanError:
        span = cast("Span", getattr(item, "span"))  # noqa: B009 - groups and contrasts both have one
        what = f"{type(item).__name__.lower()}s"
        message = f"{what} are understood, but cannot be planned yet"
        return PlanError(
            Problem("T0230", message, "write one slot in its place", (self._site(span),))
        )


def _lay_out(
    parts: Sequence[tuple[Slot | Text, Part]], side: str, inputs: dict[str, Value]
) -> tuple[Mapping[str, Plain], ...]:
    """Return what a side is made of, in order, and enter the values it reads in ``inputs``.

    Neighbouring parts of ids stand between one BOS and one EOS, as OFASys groups them
    (``preprocessor/general.py``); a target side is one such group.
    """
    laid: list[Mapping[str, Plain]] = []
    was_ids = False
    for index, (item, part) in enumerate(parts):
        is_ids = not part.lane
        if is_ids != was_ids:
            laid.append({"special": BOS if is_ids else EOS})
        was_ids = is_ids
        entry: dict[str, Plain] = {"port": f"{side}.{index}"} if part.value is not None else {}
        if part.value is not None:
            inputs[f"{side}.{index}"] = part.value
        if part.answers is not None:
            inputs[f"answers.{index}"] = part.answers
            entry |= {"answers": f"answers.{index}"}
        if part.lane:
            entry |= {"lane": part.lane, "length": part.length}
        if isinstance(item, Slot):
            entry |= {"slot": item.name}
        laid.append(entry | {"block": part.block})
    laid += [{"special": EOS}] if was_ids else []
    # OFA's source groups give ids EOS before a tensor follows; a leading tensor has no BOS before it.
    return tuple(laid)


def _refuse_several_targets(
    parts: Sequence[tuple[Slot | Text, Part]], side: str, spec: TaskSpec
) -> None:
    slots = [item for item, _ in parts if isinstance(item, Slot)]
    if side == "source" or (len(slots) == 1 and isinstance(parts[-1][0], Slot)):
        return
    text, label = spec.instruction.text, spec.instruction.label
    sites = tuple(Site(label, text, slot.span) for slot in slots[1:])
    message = "a task has one target slot, at the end of its target side, as yet"
    raise PlanError(Problem("T0232", message, f"this one has {len(slots)}", sites))
