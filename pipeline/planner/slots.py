"""The slots of instructions as a table: what each holds, and what its recipe lacks to plan it.

It needs no rows and no recipes, so it also shows what cannot be planned yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields

from ...graph.instruction import Contrast, Group, Instruction, Item, Slot
from ...graph.recipe import AttributeValue, Recipe
from ...graph.render.printable import measure, pad
from ...graph.resolve import check_default


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRow:
    """One slot of one template.

    Attributes:
        template: Task and number of the template.
        side: ``source``, which the model reads, or ``target``, which it writes.
        modality: What the slot holds.
        column: The column that fills it.
        attributes: What it says of itself.
        within: ``group`` or ``pair``, if it stands in one.
        lacks: What is to be added before it can be planned: ``recipe``, or attributes of the recipe.
    """

    template: str
    side: str
    modality: str
    column: str
    attributes: Mapping[str, AttributeValue]
    within: str
    lacks: tuple[str, ...]


def list_slots(
    templates: Iterable[Instruction], recipes: Mapping[str, Recipe]
) -> tuple[SlotRow, ...]:
    """Return the slots of ``templates``, from left to right."""
    return tuple(
        SlotRow(
            template=template.label,
            side="source" if slot.is_source else "target",
            modality=slot.modality,
            column=slot.name,
            attributes=slot.values,
            within=within,
            lacks=_lacks(slot, recipes),
        )
        for template in templates
        for slot, within in _walk((*template.source, *template.target))
    )


def write_slots(templates: Iterable[Instruction], recipes: Mapping[str, Recipe]) -> str:
    """Return ``templates`` in our spelling, each with the table of its slots."""
    return "\n\n".join(
        f"{template.label}   {template}\n{_write_rows(list_slots([template], recipes))}"
        for template in templates
    )


def _write_rows(rows: Iterable[SlotRow]) -> str:
    names = [field.name for field in fields(SlotRow)][1:]
    cells = [names, *([_write(getattr(row, name)) for name in names] for row in rows)]
    widths = [max(map(measure, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(pad, row, widths)).rstrip() for row in cells]
    return "\n".join(f"  {line}" for line in lines)


def _write(cell: str | tuple[str, ...] | Mapping[str, AttributeValue]) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, tuple):
        return ", ".join(cell)
    return ", ".join(key if value is True else f"{key}={value}" for key, value in cell.items())


def _walk(items: Iterable[Item]) -> Iterator[tuple[Slot, str]]:
    for item in items:
        match item:
            case Slot():
                yield item, ""
            case Group():
                yield from ((slot, "group") for slot in item.items if isinstance(slot, Slot))
            case Contrast():
                yield from ((item.left, "pair"), (item.right, "pair"))
            case _:
                pass


def _lacks(slot: Slot, recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    recipe = recipes.get(slot.modality)
    if recipe is None:
        return ("recipe",)
    return tuple(
        str(given)
        for given in slot.attributes
        if check_default(slot.modality, given.key, given.value, recipe.attributes)
    )
