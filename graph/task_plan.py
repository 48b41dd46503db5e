"""One task, planned: which rows it has, and the documents that each of its templates makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .draft import Draft
from .ending import find_endless
from .errors import PlanError, Problem, Site, Span, TaskloomError, suggest
from .fit import Fits
from .instruction import Contrast, Instruction
from .node import Value
from .part_plan import PartPlan
from .planned import Half, Member, Planned, TaskSpec
from .recipe import Recipe
from .side import Entry, Placed, lay_out


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """One task being planned.

    Attributes:
        spec: The task.
        planned: Takes the nodes and documents.
        fits: Takes what is to be fitted.
        recipes: The recipe of each modality.
        is_inference: Whether target slots are to be written rather than read.
    """

    spec: TaskSpec
    planned: Planned
    fits: Fits
    recipes: Mapping[str, Recipe]
    is_inference: bool

    def add(self) -> None:
        """Add the task's nodes, its documents the last of them.

        Raises:
            PlanError: With one problem for each thing that cannot be planned.
        """
        if not self.is_inference:
            self._refuse_unknown_columns()
        problems: list[Problem] = []
        learned: dict[str, None] = {}
        for number, instruction in enumerate(self.spec.instructions, start=1):
            parts = PartPlan(
                spec=self.spec,
                instruction=instruction,
                number=number,
                planned=self.planned,
                fits=self.fits,
                recipes=self.recipes,
                splits=self._masked,
                is_inference=self.is_inference,
            )
            try:
                learned |= dict.fromkeys(self._add_documents(parts))
            except TaskloomError as error:
                problems += error.problems
        if problems:
            raise PlanError(*problems)
        self.planned.scored.extend((self.spec.name, slot) for slot in learned)

    def _add_documents(self, parts: PartPlan) -> list[str]:
        """Add what one template makes of a row; return the slots that it learns to write."""
        instruction = parts.instruction
        match instruction.source, instruction.target:
            case (Contrast() as pair,), ():
                self._add_document(parts, parts.place([pair.left], "source"), [], "left")
                self._add_document(parts, parts.place([pair.right], "source"), [], "right")
                return [f"{pair.left.name}|{pair.right.name}"]
            case source, target:
                placed = parts.place_sides(source, target)
                if problems := tuple(find_endless(placed[1])):
                    raise PlanError(*problems)
                learned = [name for each in placed[1] for name in each.learned]
                if not learned and not self.is_inference:
                    raise self._nothing_learned(instruction)
                self._add_document(parts, *placed)
                return learned

    def _add_document(
        self,
        parts: PartPlan,
        source: Sequence[Placed],
        target: Sequence[Placed],
        half: Half | None = None,
    ) -> None:
        inputs: dict[str, Value] = {}
        params: dict[str, tuple[Entry, ...]] = {
            "source": lay_out(source, "source", inputs),
            "target": lay_out(target, "target", inputs),
        }
        if self._splits is not None:
            inputs["split"] = self._splits
            inputs |= {f"keep.{i}": keep for i, keep in enumerate(self._keeps)}
        op = self._draft.catalogue["compose_documents"](**params)
        name = f"{parts.name}/{half}" if half else parts.name
        document = self._draft.add(
            op, inputs, address=f"{name}/document", sites=[_whole(parts.instruction)]
        )
        self.planned.members[name] = Member(task=self.spec.name, document=document, half=half)

    @property
    def _draft(self) -> Draft:
        return self.planned.draft

    @cached_property
    def _splits(self) -> Value | None:
        """Which split each row belongs to."""
        if self.is_inference:
            return None
        spec, catalogue = self.spec, self._draft.catalogue
        site, address = self._site, f"{spec.name}/split"
        read = self._draft.add(
            catalogue["read_splits"](), rows=spec.source, address=f"{address}/read"
        )
        if not spec.key:
            return read
        op = catalogue["assign_splits"](test=spec.test, valid=spec.valid)
        key = self.planned.read(spec, spec.key, f"{spec.name}/key", site)
        return self._draft.add(op, {"split": read, "key": key}, address=address, sites=[site])

    @cached_property
    def _masked(self) -> Value | None:
        """The splits that artifacts are fitted by: rows that a filter leaves out are in none."""
        if (splits := self._splits) is None:
            return None
        for keep in self._keeps:
            op, address = self._draft.catalogue["mask_splits"](), f"{self.spec.name}/split/mask"
            splits = self._draft.add(op, {"split": splits, "keep": keep}, address=address)
        return splits

    @cached_property
    def _keeps(self) -> list[Value]:
        """Whether each row passes each of the task's filters."""
        keeps: list[Value] = []
        for column, op in self.spec.where:
            address = f"{self.spec.name}/where.{column}"
            read = self.planned.read(self.spec, column, address, self._site)
            step = f"{address}/compare"
            keeps.append(self._draft.add(op, {"values": read}, address=step, sites=[self._site]))
        return keeps

    def _refuse_unknown_columns(self) -> None:
        spec = self.spec
        if spec.columns is None:
            return
        wanted = [(slot.name, i.site(slot.span)) for i in spec.instructions for slot in i.slots]
        others = (spec.key, *(column for column, _ in spec.where))
        wanted += [(column, self._site) for column in others if column]
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

    def _nothing_learned(self, instruction: Instruction) -> PlanError:
        message = f'task "{self.spec.name}" learns nothing: no slot of its target side has a loss'
        help_ = "write a slot right of the arrow, without no_loss, or a pair: [ [A] | [B] ] ->"
        return PlanError(Problem("T0250", message, help_, (_whole(instruction),)))

    @property
    def _site(self) -> Site:
        return _whole(self.spec.instructions[0])


def _whole(instruction: Instruction) -> Site:
    return instruction.site(Span(0, len(instruction.text)))


__all__ = ["TaskPlan"]
