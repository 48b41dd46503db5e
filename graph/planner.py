"""From tasks to one graph: slots follow their recipes, plain text becomes a constant.

For each task the planner reads the columns that its slots name, lets every modality's recipe add its chain of
ops, and joins the parts in one *document* per row. A document knows what it is made of, in order: special ids,
ids of a column, positions of a tensor. All documents of a mixture meet in one *pack*; what follows the pack is
the device half, which the caller's architecture adds.

The parts of one row must carry one row set: a document is where a graph that paired the wrong rows would show,
and the check of types refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .draft import Draft
from .errors import PlanError, Problem, TaskloomError
from .fit import Fits
from .op import Catalogue
from .planned import Planned, TaskSpec
from .recipe import Pinned, Recipe
from .task_plan import TaskPlan


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
        # Everything a fit reads is known only now.
        planned.substitute(fits.close())
        planned.fits.update(fits.values)
        return planned

    def _plan_all(self, specs: Sequence[TaskSpec], draft: Draft, fits: Fits) -> Planned:
        planned = Planned(draft)
        problems: list[Problem] = []
        for spec in specs:
            try:
                TaskPlan(
                    spec=spec,
                    planned=planned,
                    fits=fits,
                    recipes=self.recipes,
                    is_inference=self.is_inference,
                ).add()
            except TaskloomError as error:
                problems += error.problems
        if problems:
            raise PlanError(*problems)
        return planned
