"""What is written after a step, whatever the search: what is allowed, less what is not wanted.

Shape letters: as in `taskloom.ops.device.decode.options`; T = tokens, the begin of sequence among them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .draw import draw, numbers
from .options import Chooser, Limits, Options
from .search import Search
from .stack import Stack
from .task import Moment, Task


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """What the steps of a task have in common.

    Attributes:
        search: How targets are searched for.
        stack: What scores.
        chooser: What is allowed.
        limits: What is not wanted.
    """

    search: Search
    stack: Stack
    chooser: Chooser
    limits: Limits

    @classmethod
    def of(cls, task: Task) -> Rules:
        """Return the rules of ``task``."""
        return cls(
            search=task.search,
            stack=task.stack,
            chooser=Chooser.of(task.automaton, task.stack, task.search.temperature),
            limits=Limits.of(task),
        )

    def weigh(
        self,
        hidden_RC: Tensor,
        states_R: Tensor,
        tokens_RT: Tensor,
        begins_R: Tensor,
        moment: Moment,
    ) -> Options:
        """Return what is left to each row.

        Args:
            hidden_RC: The rows' states in the decoder.
            states_R: Their states in the automaton.
            tokens_RT: What was written, the begin of sequence first, then padding.
            begins_R: Ids that each row was given.
            moment: The step.
        """
        options = self.chooser.weigh(self.stack, hidden_RC, states_R, moment.fan_out)
        return self.limits.apply(options, tokens_RT, begins_R, moment)

    def pick(self, options: Options, keys_R: Tensor, at: Tensor) -> Tensor:
        """Return one option for each row: one that is drawn, or the likeliest.

        Args:
            options: What is left.
            keys_R: What tells rows apart.
            at: Step, one for all or one for each.
        """
        search = self.search
        if not search.sample:
            return options.best()
        return draw(
            options.scores_RX,
            numbers(search.seed, keys_R, at),
            top_k=search.top_k,
            top_p=search.top_p,
            temperature=search.temperature,
        )
