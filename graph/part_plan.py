"""What stands on a side of an instruction, planned: slots by their recipes, text as constants, groups of both.

A *group* repeats once for each item of its columns, which hold a list in each row. Its columns are unnested
together into a row set of items, in which the recipes work as they do on rows; then the items go back to
the rows they were made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

from .errors import PlanError, Problem, Site, Span, TaskloomError
from .fit import Fits
from .instruction import Contrast, Group, Instruction, Item, Slot, Text
from .node import Value
from .op import Op
from .planned import Lane, Planned, TaskSpec
from .recipe import Beside, Make, Part, PromptRecipe, PromptRequest, Recipe, Request
from .resolve import fill_defaults, resolve_attributes
from .side import Placed, lay_out
from .type import ANY

PROMPT_MODALITY = "TEXT"

T = TypeVar("T")

_LIST = re.compile(
    r"(?:fixed_size_list|large_list|list)<[^:]+: (?P<item>.*?)(?: not null)?>(?:\[\d+\])?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """The parts of one template being planned.

    Attributes:
        spec: The task.
        instruction: The template.
        number: Its number among those of the task, from 1.
        planned: Takes the nodes.
        fits: Takes what is to be fitted.
        recipes: The recipe of each modality.
        splits: Which split each row belongs to; None at inference.
        is_inference: Whether target slots are to be written rather than read.
    """

    spec: TaskSpec
    instruction: Instruction
    number: int
    planned: Planned
    fits: Fits
    recipes: Mapping[str, Recipe]
    splits: Value | None
    is_inference: bool

    @property
    def name(self) -> str:
        """The template's own first part of addresses: the task, with a number from the second on."""
        return self.spec.name if self.number == 1 else f"{self.spec.name}:{self.number}"

    def place(self, items: Iterable[Item], side: str) -> list[Placed]:
        """Plan what stands on a side.

        Raises:
            PlanError: With one problem for each thing that cannot be planned.
        """
        given = _leading(items) if side == "target" else ()
        placed = self._all(lambda item: self._place(item, side, is_leading=item in given), items)
        return [each for each in placed if each is not None]

    def place_sides(
        self, source: Iterable[Item], target: Iterable[Item]
    ) -> tuple[list[Placed], list[Placed]]:
        """Plan both sides.

        Raises:
            PlanError: With one problem for each thing on either side that cannot be planned.
        """
        placed: list[list[Placed]] = []
        problems: list[Problem] = []
        for items, side in ((source, "source"), (target, "target")):
            try:
                placed.append(self.place(items, side))
            except TaskloomError as error:
                problems += error.problems
        if problems:
            raise PlanError(*problems)
        return placed[0], placed[1]

    def site(self, span: Span) -> Site:
        """Return a place in the template."""
        return self.instruction.site(span)

    def _all(self, plan: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
        """Return what ``plan`` makes of each item; what is wrong with several is told together."""
        done: list[T] = []
        problems: list[Problem] = []
        for item in items:
            try:
                done.append(plan(item))
            except TaskloomError as error:
                problems += error.problems
        if problems:
            raise PlanError(*problems)
        return done

    def _place(self, item: Item, side: str, *, is_leading: bool) -> Placed | None:
        match item:
            case Text():
                site = self.site(item.span)
                return Placed(part=self._prompt(item), site=site) if item.text.strip() else None
            case Slot():
                is_read = side == "source" or not self.is_inference or is_leading
                column = self._column(item) if is_read else None
                return self._slot(item, side, column, self.splits, self._beside)
            case Group():
                return self._group(item, side)
            case Contrast():
                help_ = "write [ [IMAGE:img] | [TEXT:cap] ] -> and nothing else"
                message = "a contrastive pair stands alone, on the source side"
                raise PlanError(Problem("T0251", message, help_, (self.site(item.span),)))

    def _column(self, slot: Slot) -> Value:
        return self.planned.read(self.spec, slot.name, self._address(slot), self.site(slot.span))

    def _address(self, slot: Slot) -> str:
        return f"{self.spec.name}.{slot.name}"

    def _beside(self, modality: str, make: Make, _: Op) -> Value | None:
        """Return what ``make`` makes of the column of the first slot of ``modality`` outside groups."""
        items = (*self.instruction.source, *self.instruction.target)
        slots = (item for item in items if isinstance(item, Slot) and item.modality == modality)
        first = next(slots, None)
        return None if first is None else make(self._column(first), self._address(first))

    def _slot(
        self,
        slot: Slot,
        side: str,
        column: Value | None,
        splits: Value | None,
        beside: Beside,
    ) -> Placed:
        site = self.site(slot.span)
        recipe = self.recipes.get(slot.modality)
        if recipe is None:
            raise self._no_recipe(slot, site)
        defaults = self.spec.defaults.get(slot.modality, {})
        full = fill_defaults(slot, defaults, recipe.attributes)
        request = Request(
            draft=self.planned.draft,
            slot=slot,
            attributes=resolve_attributes(full, recipe.attributes, site),
            column=column,
            splits=splits,
            address=self._address(slot),
            site=site,
            fit=self.fits.fit,
            beside=beside,
        )
        part = recipe.source(request) if side == "source" else recipe.target(request)
        self._note_lane(part)
        if part.beyond is not None:
            self.planned.blocks[part.beyond.name] = part.beyond
        is_learned = side == "target" and not part.is_given
        learned = (slot.name,) if is_learned else ()
        return Placed(part=part, site=site, slot=slot.name, is_ids=not part.lane, learned=learned)

    def _prompt(self, text: Text) -> Part:
        recipe = cast("PromptRecipe", self.recipes[PROMPT_MODALITY])
        site, draft = self.site(text.span), self.planned.draft
        address = f"{self.name}.text@{text.span.start}"
        op = draft.catalogue["make_texts"](text=text.text)
        return recipe.prompt(
            PromptRequest(
                draft=draft,
                text=draft.add(op, address=address, sites=[site]),
                splits=self.splits,
                address=address,
                site=site,
                fit=self.fits.fit,
            )
        )

    def _group(self, group: Group, side: str) -> Placed:
        slots = [item for item in group.items if isinstance(item, Slot)]
        draft, site = self.planned.draft, self.site(group.span)
        address = f"{self.spec.name}.{'+'.join(slot.name for slot in slots)}"
        columns: dict[str, Value | None] = {slot.name: None for slot in slots}
        splits, inputs = self.splits, dict[str, Value]()
        beside: Beside = self._beside
        if side == "source" or not self.is_inference:
            unnested = self._unnest(slots, address, site)
            inputs["count"] = unnested.count
            columns |= unnested.columns
            if splits is not None:
                repeat = draft.catalogue["repeat_values"]()
                both = {"values": splits, "items": unnested.items}
                splits = draft.add(repeat, both, address=f"{address}/split", sites=[site])
            beside = partial(self._beside_item, slots, unnested)

        def place(item: Item) -> Placed | None:
            if isinstance(item, Slot):
                return self._slot(item, side, columns[item.name], splits, beside)
            return self._place(item, side, is_leading=False)

        placed = [each for each in self._all(place, group.items) if each is not None]
        is_ids = all(each.is_ids for each in placed)
        entries = lay_out(placed, "item", inputs, has_ends=not is_ids)
        op = draft.catalogue["group_items"](items=entries)
        value = draft.add(op, inputs, address=f"{address}/group", sites=[site])
        learned = tuple(name for each in placed for name in each.learned)
        return Placed(
            part=Part(value=value), site=site, inside=tuple(placed), is_ids=is_ids, learned=learned
        )

    def _beside_item(
        self,
        slots: Sequence[Slot],
        unnested: _Unnested,
        modality: str,
        make: Make,
        repeat: Op,
    ) -> Value | None:
        """Return what `_beside` does for an item of a group: of a slot in the group, else of one around it."""
        first = next((slot for slot in slots if slot.modality == modality), None)
        if first is not None:
            return make(unnested.columns[first.name], self._address(first))
        if (made := self._beside(modality, make, repeat)) is None:
            return None
        address = f"{self.spec.name}.{'+'.join(slot.name for slot in slots)}/beside"
        both = {"values": made, "items": unnested.items}
        return self.planned.draft.add(repeat, both, address=address)

    def _unnest(self, slots: list[Slot], address: str, site: Site) -> _Unnested:
        """Return the columns of ``slots`` item by item."""
        draft = self.planned.draft
        dtypes = {slot.name: self._item_type(slot) for slot in slots}
        lists = {f"lists.{i}": self._column(slot) for i, slot in enumerate(slots)}
        op = draft.catalogue["unnest_lists"]()
        items = draft.add(op, lists, address=f"{address}/unnest", sites=[site])
        op = draft.catalogue["count_items"]()
        count = draft.add(op, {"items": items}, address=f"{address}/count", sites=[site])
        columns: dict[str, Value] = {}
        for number, slot in enumerate(slots):
            op = draft.catalogue["pick_items"](number=number, dtype=dtypes[slot.name])
            step = f"{self.spec.name}.{slot.name}/item"
            site = self.site(slot.span)
            columns[slot.name] = draft.add(op, {"items": items}, address=step, sites=[site])
        return _Unnested(items, count, columns)

    def _item_type(self, slot: Slot) -> str:
        """Return the element type of the lists in the column of ``slot``, as far as it is known."""
        dtype = ANY if self.spec.columns is None else self.spec.columns[slot.name]
        if dtype == ANY:
            return ANY
        if match := _LIST.fullmatch(dtype):
            return match["item"]
        message = f'column "{slot.name}" is repeated in a group, so each row must hold a list'
        help_ = f"expected: list<{dtype}>\ngot:      {dtype}"
        raise PlanError(Problem("T0252", message, help_, (self.site(slot.span),)))

    def _no_recipe(self, slot: Slot, site: Site) -> PlanError:
        known = ", ".join(sorted(self.recipes))
        message = f"{slot.modality} slots cannot be planned yet: they have no recipe"
        help_ = (
            f"modalities with a recipe: {known}\none file adds a recipe: docs/adding-a-modality.md"
        )
        return PlanError(Problem("T0231", message, help_, (site,)))

    def _note_lane(self, part: Part) -> None:
        if part.lane and part.value is not None and part.adapter is not None:
            type_ = self.planned.draft.type_of(part.value)
            self.planned.lanes[part.lane] = Lane(
                kind=type_.kind,
                dtype=type_.dtype,
                shape=type_.shape,
                length=part.length,
                adapter=part.adapter,
            )


@dataclass(frozen=True, slots=True)
class _Unnested:
    """The items of a group's columns, how many each row has, and the column of each slot."""

    items: Value
    count: Value
    columns: Mapping[str, Value]


def _leading(items: Iterable[Item]) -> list[Item]:
    """Return the slots that are told to the model before the first that it writes."""
    found: list[Item] = []
    for item in items:
        if isinstance(item, Slot) and item.values.get("no_loss") in (True, "true"):
            found.append(item)
        elif not isinstance(item, Text):
            break
    return found
