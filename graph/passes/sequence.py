"""Sequence: run passes one after another, and keep what each has made of the graph.

After every pass the graph is verified: a pass that breaks it is named with the node, and planning ends. A pass
that merely fails ends planning as well, unless it is an *optimisation*: then the graph stays as it was, and the
step says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..errors import PlanError, Problem, TaskloomError
from ..graph import Graph
from ..op import Catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A function from graph to graph, under a name.

    Attributes:
        name: One word, for people.
        apply: Returns the graph, rewritten.
        is_optimisation: Whether planning can go on without it.
    """

    name: str
    apply: Callable[[Graph], Graph]
    is_optimisation: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A graph, and the pass that made it.

    Attributes:
        name: Name of the pass, ``plan`` for the graph that no pass has seen.
        graph: The graph after it.
        skipped: Why the pass changed nothing, if it failed and planning could go on without it.
    """

    name: str
    graph: Graph
    skipped: Problem | None = None


def run_passes(
    graph: Graph,
    passes: Iterable[Pass],
    catalogue: Catalogue,
    *,
    see: Callable[[Step], None] | None = None,
) -> tuple[Step, ...]:
    """Return ``graph`` and what each of ``passes`` makes of it, verified.

    Args:
        graph: A graph that is correct, as a draft gives it.
        passes: The passes in order.
        catalogue: The ops.
        see: Is shown every step, before it is verified.

    Raises:
        PlanError: A pass leaves a graph that does not verify (T0240), or one fails that is no optimisation
            (T0241, or its own problem).
    """
    steps = [Step("plan", graph)]
    if see is not None:
        see(steps[0])
    for each in passes:
        before = steps[-1].graph
        step = _apply(each, before)
        if see is not None:
            see(step)
        _verify(step, before, catalogue)
        steps.append(step)
    return tuple(steps)


def _apply(each: Pass, graph: Graph) -> Step:
    try:
        return Step(each.name, each.apply(graph))
    except Exception as error:  # a pass is anybody's code, and an optimisation costs nobody a plan
        problem = _problem(each, error)
        if each.is_optimisation:
            return Step(each.name, graph, problem)
        if isinstance(error, TaskloomError):
            raise
        raise PlanError(problem) from error


def _verify(step: Step, before: Graph, catalogue: Catalogue) -> None:
    try:
        step.graph.verify(catalogue, known=before)
    except TaskloomError as error:
        what = f"pass {step.name} leaves a graph that does not hold"
        problems = [
            replace(problem, code="T0240", message=f"{what}: {problem.message} ({problem.code})")
            for problem in error.problems
        ]
        raise PlanError(*problems) from error


def _problem(each: Pass, error: Exception) -> Problem:
    """Return what went wrong in a pass, at the node that the error names."""
    what = error.problems[0] if isinstance(error, TaskloomError) else None
    reason = what.message if what else f"{type(error).__name__}: {error}"
    message = f"pass {each.name} came to nothing: {reason}"
    if what is None:
        return Problem("T0241", message, "the graph is as it was before it")
    return replace(what, code="T0241", message=message)
