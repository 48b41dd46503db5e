"""The learner: parameters and how they change, one step at a time."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...storage.pack import Pack, fingerprint_pack
from ..loader.packing import to_inputs
from ..model.precision import refresh, working_copy
from ..model.program import Program
from ..planner.planning import Plan
from ..settings import TrainConfig
from .averaging import Average, make_average
from .balancing import Balance, make_balance
from .drawing import draw_for_pack
from .optimizer import Member, Optimizer, kinds_of, make_optimizer, owners_of
from .ranks import Ranks
from .recording import SUMS, TOLD, Recorder, teach
from .schedule import rate_at
from .scopes import apply_rules
from .sharding import local, shard, summed_at_last
from .summing import replicate, summed
from .tally import Tally
from .warming import warm_up
from .watch import PATIENCE_S


@dataclass(slots=True)
class Learner:
    """What changes from step to step.

    Attributes:
        plan: What the program computes.
        program: The program and its parameters, as they are learned: in float32.
        working: What computes: the program itself, or a copy of it in half precision.
        optimizer: What changes the program's parameters.
        config: Settings of the run.
        device: Where it computes.
        is_compiled: Whether layers are compiled.
        ranks: Who learns it together.
        called: What is called in place of ``working`` where gradients of ranks are added up.
        average: Follows the program, if it is there.
        balance: Says what the loss of each task counts, if it is there.
        recorder: Records packs, if it is there.
        step: Steps taken.
        tally: What happened since the last line of the log.
    """

    plan: Plan
    program: Program
    working: Program
    optimizer: Optimizer
    config: TrainConfig
    device: torch.device
    is_compiled: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    called: nn.Module | None = None
    average: Average | None = None
    balance: Balance | None = None
    recorder: Recorder | None = None
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    _num_taken: int = 0
    _num_halted: Tensor = field(init=False)
    _tasks: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._tasks = [task for task in self.plan.tasks for _ in self.plan.templates(task)]
        self._num_halted = torch.zeros((), dtype=torch.int64, device=self.device)

    @classmethod
    def make(
        cls, plan: Plan, config: TrainConfig, device: torch.device, ranks: Ranks | None = None
    ) -> Self:
        """Return a learner at step 0; parameters come from torch's global random numbers."""
        return cls.of(Program(plan), plan, config, device, ranks)

    @classmethod
    def of(
        cls,
        program: Program,
        plan: Plan,
        config: TrainConfig,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> Self:
        """Return a learner of ``program`` at step 0; alone, if there are no ``ranks``."""
        ranks = ranks or Ranks()
        program = program.to(device).train()
        rules = apply_rules(program, config.scopes)
        kinds, owners = kinds_of(program), owners_of(program)
        average = make_average(plan, program, config.ema) if config.ema else None
        is_sharded = config.sharding == "full" and ranks.number > 1
        if is_sharded:
            for each in [program] if average is None else [program, average.program]:
                shard(each, ranks, device, config.precision)
        members = [
            Member(
                name=name,
                parameter=parameter,
                kind=kinds[name],
                factor=rules[name].rate,
                owner=owners[name],
            )
            for name, parameter in program.named_parameters()
            if parameter.requires_grad
        ]
        working = program if is_sharded else working_copy(plan, program, config.precision)
        working.set_activations(config.activations)
        is_compiled = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
        if is_compiled:
            working.compile_layers()
        is_replicated = ranks.number > 1 and not is_sharded
        return cls(
            plan,
            program,
            working,
            make_optimizer(members, config),
            config,
            device,
            is_compiled,
            ranks,
            called=replicate(working, program, ranks.watch) if is_replicated else None,
            average=average,
            balance=make_balance(config.balance, plan, device, ranks.add_up_tensor),
        )

    @property
    def result(self) -> Program:
        """What the run has come to: the average, or else the program as it is learned."""
        return self.program if self.average is None else self.average.program

    @property
    def remark(self) -> str:
        """What a person should know about how it computes."""
        how = "compiled" if self.is_compiled else 'not compiled (compile="on" compiles)'
        precision = self.config.precision
        told = "" if precision == "float32" else f" in {precision}"
        of_many = f", {self.ranks.number} ranks" if self.ranks.number > 1 else ""
        return f"on {self.device.type}{told}, {how}{of_many}"

    @property
    def recording(self) -> str:
        """Whether steps are recorded, or why they are not; empty while there is nothing to say of it."""
        return "" if self.recorder is None else self.recorder.remark

    def record(self) -> None:
        """Record packs from now on where that is worth it: on one GPU, where layers are compiled."""
        is_on_gpu = self.is_compiled and self.device.type == "cuda"
        is_offloaded = self.config.activations == "offload"  # memory of the host is given out anew
        if is_on_gpu and not is_offloaded and self.ranks.number == 1:
            self.recorder = Recorder(working=self.working, program=self.program)

    def take(self, packs: Sequence[Pack], *, is_stopping: bool = False) -> bool:
        """Take one step, whose gradients are those of one large batch.

        Args:
            packs: Those of this rank, equally many on each.
            is_stopping: Whether somebody has asked this rank to stop.

        Returns:
            Whether somebody has asked any rank to stop.
        """
        watch, is_shared = self.ranks.watch, self.called is None
        if self.is_compiled and not self._num_taken:
            doing = "compiling"
            watch.enter(doing, step=self.step + 1, limit_s=PATIENCE_S, is_waiting=is_shared)
            self._draw_for(self.step, 0, len(packs))
            inputs = to_inputs(self.plan, packs[0], self.device)
            looks_back = self.balance is not None and self.balance.balancer.looks_back
            warm_up(self.working, self.program, inputs, looks_back=looks_back)
        # The first step makes much ready. The second tells how long one takes, which nobody knows before.
        is_usual = self._num_taken > 0
        limit_s = 0.0 if self._num_taken > 1 else PATIENCE_S
        self.optimizer.set_rate(rate_at(self.config, self.step))
        self.optimizer.zero_grad()
        doing = "waiting for other ranks to begin the step"
        watch.enter(doing, step=self.step + 1, is_waiting=True, limit_s=limit_s)
        divisors, is_stopping = self._agree(packs, is_stopping=is_stopping)
        # Whatever is compiled is compiled by now; more would be a defect, and slow.
        with torch.compiler.set_stance("fail_on_recompile" if self.is_compiled else "default"):
            if self.balance is not None:
                self.balance.begin(packs, is_measured=self.working.probe is not None)
            for number, pack in enumerate(packs):
                is_last = number == len(packs) - 1
                doing = f"learning pack {number + 1} of {len(packs)}"
                # Ranks that share parameters wait for each other in every layer, and for norms of gradients;
                # others do where torch puts gradients in another order.
                is_waiting = is_shared or self._num_taken == 1
                watch.enter(doing, limit_s=limit_s, is_waiting=is_waiting, is_usual=is_usual)
                self._draw_for(self.step, number, len(packs))
                with self._summed(is_last=is_last):
                    self._learn(pack, divisors, is_only=len(packs) == 1)
            doing = "stepping the optimizer"
            watch.enter(doing, limit_s=limit_s, is_waiting=is_shared, is_usual=is_usual)
            norms_P = self.optimizer.norms()
            norm = norms_P.norm()
            if self.config.clip:
                learned = self.program.parameters()
                nn.utils.clip_grads_with_norm_(learned, self.config.clip, norm)
            is_bad = self._halt(norm)
            self.optimizer.step(norms_P, is_bad)
            refresh(self.working, self.program)
            self.step += 1
            if self.average is not None:
                self.average.follow(self.program, self.step)
            if self.balance is not None:
                self.balance.learn(lambda: self._look(packs), is_bad)
        self.tally.add("gradient_norm", norm)
        self.tally.steps += 1
        self.tally.packs.append([fingerprint_pack(pack) for pack in packs])
        self._num_taken += 1
        return is_stopping

    def _learn(self, pack: Pack, divisors: Mapping[str, Tensor], *, is_only: bool) -> None:
        """Add the gradients of ``pack`` to those of the step, and what it told to the tally."""
        inputs = to_inputs(self.plan, pack, self.device)
        if self.balance is not None:
            inputs = self.balance.weigh(inputs)
        if self.recorder is not None and self._num_taken:
            told = self.recorder.teach(inputs, divisors, is_only=is_only)
        else:
            told = teach(self.working, self.program, inputs, divisors, called=self.called)
        if self.balance is not None:
            told = self.balance.unweigh(told)
        for name in TOLD:
            self.tally.add(name, told[name])
        self.tally.count(pack, self._tasks)

    @torch.no_grad()
    def _look(self, packs: Sequence[Pack]) -> Tensor:
        """Return sums of losses and of weights of ``packs``, learning nothing; shape ``(2, L)``."""
        # What nodes cost is what they cost in learning.
        probe, self.working.probe = self.working.probe, None
        sums: list[Tensor] = []
        for number, pack in enumerate(packs):
            # What was dropped in learning is dropped again, so that parameters alone make the difference.
            self._draw_for(self.step - 1, number, len(packs))
            told = self.working(to_inputs(self.plan, pack, self.device))
            sums.append(torch.stack([told[name] for name in SUMS]))
        self.working.probe = probe
        return torch.stack(sums).sum(0)

    @property
    def sound_step(self) -> int:
        """The last step whose gradient was a finite number; asking waits for the device."""
        return self.step - int(self._num_halted)

    def _halt(self, norm: Tensor) -> Tensor:
        """Return whether the step is to change nothing: its gradient, or one before, is no finite number.

        So the parameters stay those that went wrong, for whoever asks why.
        """
        is_bad = torch.logical_or(self._num_halted > 0, ~norm.isfinite())
        self._num_halted = self._num_halted + is_bad
        return is_bad

    def _summed(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Return what a pack is learned within; after the last of a step, gradients are summed over ranks."""
        if self.called is None:
            return summed_at_last(self.program, is_last=is_last)
        return summed(self.called, is_last=is_last)

    def _draw_for(self, step: int, number: int, num_packs: int) -> None:
        """Draw random numbers for pack ``number`` of this rank's ``num_packs`` in ``step``."""
        place = self.ranks.rank * num_packs + number
        draw_for_pack(self.config.seed, step, place, self.device)

    def _agree(
        self, packs: Sequence[Pack], *, is_stopping: bool
    ) -> tuple[dict[str, torch.Tensor], bool]:
        """Return what each loss is divided by, by its op, and whether any rank is to stop.

        A loss is divided by its weight in all of the step, so ranks tell each other what their packs weigh.
        """
        weights = sum(float(pack.weights.sum()) for pack in packs)
        pairs = float(sum((pack.pair_loss_ids >= 0).sum() for pack in packs))
        weights, pairs, stopping = self.ranks.add_up([weights, pairs, float(is_stopping)])
        totals = {"score_tokens": weights, "contrast_pairs": pairs}
        # Filled there rather than copied: the host would wait for a copy.
        divisors = {op: torch.full((), total, device=self.device) for op, total in totals.items()}
        return divisors, stopping > 0

    def trouble(self, tasks: Sequence[str]) -> str:
        """Return what is no longer a finite number since the last line of the log; empty if all is well."""
        if told := self.tally.trouble(tasks, self.ranks):
            return told
        are_finite = torch.stack([local(p).isfinite().all() for p in self.program.parameters()])
        (num_bad,) = self.ranks.add_up([float(not are_finite.all())])
        return "a parameter" if num_bad else ""

    def measure(self, tasks: Sequence[str], *, waited_s: float) -> dict[str, Any]:
        """Return a line of the log, on what happened since the last one."""
        tally, self.tally = self.tally, Tally()
        told = tally.of_all(self.ranks).describe(tasks)
        balance = {} if self.balance is None else {"balance": self.balance.describe()}
        line = {"step": self.step, "rate": rate_at(self.config, self.step - 1), **told, **balance}
        return line | {"waited_s": round(waited_s, 3)}


@contextmanager
def own_torch(config: TrainConfig, device: torch.device) -> Generator[None]:
    """Give the run its own random numbers and threads, and the caller's back after it."""
    num_threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)
