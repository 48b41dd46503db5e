"""The learner: parameters and how they change, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...graph.errors import CheckpointError
from ...graph.planned import name_scored
from ...storage.checkpoint import Checkpoint, checkpoint_path, write_checkpoint
from ...storage.pack import Pack, fingerprint
from ..loader.packing import to_inputs
from ..model.importing import Taken, take_over
from ..model.precision import refresh, working_copy
from ..model.program import Program
from ..planner.planning import Plan
from ..settings import TrainConfig
from .averaging import Average, make_average
from .balancing import Balance, make_balance
from .optimizer import Member, Optimizer, kinds_of, make_optimizer
from .recording import TOLD, Recorder, teach
from .schedule import rate_at
from .scopes import assign_rules, freeze
from .tally import Tally


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
    average: Average | None = None
    balance: Balance | None = None
    recorder: Recorder | None = None
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    _is_warm: bool = False
    _num_halted: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._num_halted = torch.zeros((), dtype=torch.int64, device=self.device)

    @classmethod
    def make(cls, plan: Plan, config: TrainConfig, device: torch.device) -> Self:
        """Return a learner at step 0; parameters come from torch's global random numbers."""
        return cls.of(Program(plan), plan, config, device)

    @classmethod
    def of(cls, program: Program, plan: Plan, config: TrainConfig, device: torch.device) -> Self:
        """Return a learner of ``program`` at step 0."""
        program = program.to(device).train()
        rules, kinds = assign_rules(program, config.scopes), kinds_of(program)
        freeze(program, rules)
        members = [
            Member(name=name, parameter=parameter, kind=kinds[name], factor=rules[name].rate)
            for name, parameter in program.named_parameters()
            if parameter.requires_grad
        ]
        optimizer = make_optimizer(members, config)
        average = make_average(plan, program, config.ema) if config.ema else None
        working = working_copy(plan, program, config.precision)
        is_compiled = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
        if is_compiled:
            working.compile_layers()
        balance = make_balance(config.balance, plan, device)
        return cls(plan, program, working, optimizer, config, device, is_compiled, average, balance)

    @property
    def result(self) -> Program:
        """What the run has come to: the average, or else the program as it is learned."""
        return self.program if self.average is None else self.average.program

    def begin_with(self, weights: Path, artifacts: Mapping[str, bytes]) -> Taken:
        """Take over the parameters of a checkpoint, as far as both have them, for use with ``artifacts``.

        Raises:
            CheckpointError: There is no checkpoint, or a tensor has another size there (T0743).
        """
        taken = take_over(self.program, self.plan.vocabulary, weights, artifacts)
        refresh(self.working, self.program)
        if self.average is not None:
            self.average.begin_at(self.program)
        return taken

    @property
    def remark(self) -> str:
        """What a person should know about how it computes."""
        how = "compiled" if self.is_compiled else 'not compiled (compile="on" compiles)'
        precision = self.config.precision
        told = "" if precision == "float32" else f" in {precision}"
        return f"on {self.device.type}{told}, {how}"

    @property
    def recording(self) -> str:
        """Whether steps are recorded, or why they are not; empty while there is nothing to say of it."""
        return "" if self.recorder is None else self.recorder.remark

    def record(self) -> None:
        """Record packs from now on where that is worth it: on a GPU, where layers are compiled."""
        if self.is_compiled and self.device.type == "cuda":
            self.recorder = Recorder(working=self.working, program=self.program)

    def take(self, packs: Sequence[Pack]) -> None:
        """Take one step on ``packs``, whose gradients are those of one large batch."""
        self.optimizer.set_rate(rate_at(self.config, self.step))
        self.optimizer.zero_grad()
        divisors = self._divide(packs)
        # Whatever is compiled is compiled in the first step; more would be a defect, and slow.
        is_settled = self.is_compiled and self._is_warm
        with torch.compiler.set_stance("fail_on_recompile" if is_settled else "default"):
            if self.balance is not None:
                self.balance.begin(packs, is_measured=self.working.probe is not None)
            for pack in packs:
                self._learn(pack, divisors, is_only=len(packs) == 1)
            limit = self.config.clip or math.inf
            norm = nn.utils.clip_grad_norm_(self.program.parameters(), limit)
            is_bad = self._halt(norm)
            self.optimizer.step(is_bad)
            refresh(self.working, self.program)
            self.step += 1
            if self.average is not None:
                self.average.follow(self.program, self.step)
            if self.balance is not None:
                self.balance.learn(lambda: self._look(packs), is_bad)
        self.tally.add("gradient_norm", norm)
        self.tally.steps += 1
        self.tally.packs.append(fingerprint(packs))
        self._is_warm = True

    def _learn(self, pack: Pack, divisors: Mapping[str, Tensor], *, is_only: bool) -> None:
        """Add the gradients of ``pack`` to those of the step, and what it told to the tally."""
        inputs = to_inputs(self.plan, pack, self.device)
        if self.balance is not None:
            inputs = self.balance.weigh(inputs)
        if self.recorder is not None and self._is_warm:
            told = self.recorder.teach(inputs, divisors, is_only=is_only)
        else:
            told = teach(self.working, self.program, inputs, divisors)
        if self.balance is not None:
            told = self.balance.unweigh(told)
        for name in TOLD:
            self.tally.add(name, told[name])
        self.tally.tokens += int((pack.source_hi > 0).sum()) + int((pack.target_hi > 0).sum())

    @torch.no_grad()
    def _look(self, packs: Sequence[Pack]) -> Tensor:
        """Return sums of losses and of weights of ``packs``, learning nothing; shape ``(2, L)``."""
        # What nodes cost is what they cost in learning.
        probe, self.working.probe = self.working.probe, None
        told = [self.working(to_inputs(self.plan, pack, self.device)) for pack in packs]
        self.working.probe = probe
        return torch.stack([torch.stack([each[name] for name in TOLD]) for each in told]).sum(0)

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

    def _divide(self, packs: Sequence[Pack]) -> dict[str, torch.Tensor]:
        """Return what each loss is divided by, by its op: its weight in all of the step."""
        totals = {
            "score_tokens": sum(float(pack.weights.sum()) for pack in packs),
            "contrast_pairs": float(sum((pack.pair_loss_ids >= 0).sum() for pack in packs)),
        }
        # Filled there rather than copied: the host would wait for a copy.
        return {op: torch.full((), total, device=self.device) for op, total in totals.items()}

    def trouble(self, tasks: Sequence[str]) -> str:
        """Return what is no longer a finite number since the last line of the log; empty if all is well."""
        if told := self.tally.trouble(tasks):
            return told
        are_finite = torch.stack([p.isfinite().all() for p in self.program.parameters()])
        return "" if are_finite.all() else "a parameter"

    def measure(self, tasks: Sequence[str], *, waited_s: float) -> dict[str, Any]:
        """Return a line of the log, on what happened since the last one."""
        tally, self.tally = self.tally, Tally()
        balance = {} if self.balance is None else {"balance": self.balance.describe()}
        line = {
            "step": self.step,
            "rate": rate_at(self.config, self.step - 1),
            **tally.describe(tasks),
        }
        return line | balance | {"waited_s": round(waited_s, 3)}

    def save(self, run: Path, record: Mapping[str, Any], artifacts: Mapping[str, bytes]) -> Path:
        """Write a checkpoint of the run in directory ``run`` and return its path."""
        training = {
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "tally": self.tally.to_plain(),
        }
        if self.average is not None:
            training["learned"] = dict(self.program.state_dict())
        if self.balance is not None:
            training["balance"] = self.balance.to_plain()
        if self.device.type == "cuda":
            training["cuda_random"] = torch.cuda.get_rng_state(self.device)
        path = checkpoint_path(run, self.step)
        write_checkpoint(
            path,
            tensors=self.result.state_dict(),
            training=training,
            record=record,
            artifacts=artifacts,
        )
        return path

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where ``checkpoint`` was written.

        Raises:
            CheckpointError: It holds other parameters, or nothing to go on with.
        """
        if checkpoint.training is None:
            message = f"{checkpoint.path} holds a model, but no optimizer to train it with"
            raise CheckpointError.of("T0724", message, "train into another directory")
        training: Any = checkpoint.training
        self.result.load(checkpoint.tensors, checkpoint.path)
        if self.average is not None:
            self.program.load(training["learned"], checkpoint.path)
        refresh(self.working, self.program)
        self.optimizer.load_state_dict(training["optimizer"])
        torch.set_rng_state(training["random"])
        if self.device.type == "cuda" and "cuda_random" in training:
            torch.cuda.set_rng_state(training["cuda_random"], self.device)
        self.step = checkpoint.record["step"]
        names = (checkpoint.record["losses"], name_scored(self.plan.scored))
        self.tally = Tally.from_plain(training["tally"], self.device, *names)
        if self.balance is not None:
            self.balance.restore(training["balance"], names[0])


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
