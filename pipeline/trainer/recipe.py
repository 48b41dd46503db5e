"""The recipe of a run in sentences: what it learns, by what, and what it keeps, unless that is the default."""

from __future__ import annotations

from collections.abc import Iterator

from ..settings import ScopeRule
from .learner import Learner


def tell_recipe(learner: Learner) -> Iterator[str]:
    """Yield the sentences of a run's header on how ``learner`` learns."""
    config, sizes = learner.config, learner.optimizer.num_learned
    if config.scopes:
        whole = sum(parameter.numel() for parameter in learner.program.parameters())
        told = ", ".join(_tell_rule(pattern, rule) for pattern, rule in config.scopes.items())
        yield f"learned: {sum(sizes.values()):,} of {whole:,} parameters; {told}"
    if config.optimizer != "adamw":
        yield "by " + ", ".join(f"{part}: {number:,} parameters" for part, number in sizes.items())
    if learner.average is not None:
        yield f"kept and evaluated: an average of the parameters over steps (ema {config.ema:g})"
    if learner.balance is not None:
        yield f"losses of {len(learner.balance.losses)} tasks are balanced: {config.balance}"


def tell_costs(learner: Learner, taken_s: float) -> Iterator[str]:
    """Yield what parts of the recipe cost in the steps that were measured, which took ``taken_s`` together."""
    if learner.balance is not None:
        share = learner.balance.seconds / taken_s
        yield f"balancing takes {share:.1%} of a step"


def _tell_rule(pattern: str, rule: ScopeRule) -> str:
    if rule.learn == "frozen":
        return f"{pattern} frozen"
    by_pairs = f" by pairs of rank {rule.rank}" if rule.learn == "lora" else ""
    return f"{pattern}{by_pairs} at {rule.rate:g} of the rate"
