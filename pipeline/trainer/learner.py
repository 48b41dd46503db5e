"""The learner: parameters, optimizer and learning rate, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...graph.errors import CheckpointError
from ...graph.planned import name_scored
from ...storage.checkpoint import Checkpoint
from ...storage.pack import Pack, fingerprint_pack
from ..loader.packing import to_inputs
from ..model.precision import refresh, working_copy
from ..model.program import Program
from ..planner.planning import Plan
from ..settings import TrainConfig
from .drawing import draw_for_pack
from .ranks import Ranks
from .recording import TOLD, Recorder, teach
from .sharding import is_share, like_own, local, make_whole, shard, summed_at_last, take_share
from .summing import replicate, summed
from .tally import Tally
from .watch import PATIENCE_S


@dataclass(slots=True)
class Learner:
    """What changes from step to step.

    Attributes:
        plan: What the program computes.
        program: The program and its parameters, as they are learned: in float32.
        working: What computes: the program itself, or a copy of it in half precision.
        optimizer: AdamW, of the program's parameters.
        config: Settings of the run.
        device: Where it computes.
        is_compiled: Whether layers are compiled.
        ranks: Who learns it together.
        called: What is called in place of ``working`` where gradients of ranks are added up.
        recorder: Records packs, if it is there.
        step: Steps taken.
        tally: What happened since the last line of the log.
    """

    plan: Plan
    program: Program
    working: Program
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    device: torch.device
    is_compiled: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    called: nn.Module | None = None
    recorder: Recorder | None = None
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    _num_taken: int = 0
    _num_halted: Tensor = field(init=False)

    def __post_init__(self) -> None:
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
        is_sharded = config.sharding == "full" and ranks.number > 1
        if is_sharded:
            shard(program, ranks, device, config.precision)
        # By name: the optimizer's moments are told apart by place, and a task that is added may move it.
        parameters = [parameter for _, parameter in sorted(program.named_parameters())]
        matrices = [p for p in parameters if p.ndim >= 2]
        others = [p for p in parameters if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        working = program if is_sharded else working_copy(plan, program, config.precision)
        is_compiled = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
        if is_compiled:
            working.compile_layers()
        is_replicated = ranks.number > 1 and not is_sharded
        called = replicate(working, program, ranks.watch) if is_replicated else None
        return cls(plan, program, working, optimizer, config, device, is_compiled, ranks, called)

    @property
    def remark(self) -> str:
        """What a person should know about how it computes."""
        how = "compiled" if self.is_compiled else 'not compiled (compile="on" compiles)'
        precision = self.config.precision
        told = "" if precision == "float32" else f" in {precision}"
        of_many = f", {self.ranks.number} ranks" if self.ranks.number > 1 else ""
        return f"on {self.device.type}{told}, {how}{of_many}"

    def whole_program(self) -> Program:
        """Return the program with all of its parameters; on all ranks."""
        own = self.program.state_dict()
        if not any(is_share(tensor) for tensor in own.values()):
            return self.program
        with torch.device("meta"):
            program = Program(self.plan)
        program.load({name: make_whole(tensor) for name, tensor in own.items()}, "the run")
        return program

    @property
    def recording(self) -> str:
        """Whether steps are recorded, or why they are not; empty while there is nothing to say of it."""
        return "" if self.recorder is None else self.recorder.remark

    def record(self) -> None:
        """Record packs from now on where that is worth it: on one GPU, where layers are compiled."""
        if self.is_compiled and self.device.type == "cuda" and self.ranks.number == 1:
            self.recorder = Recorder(working=self.working, program=self.program)

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``, counted from 0: warm-up, then half a cosine."""
        config = self.config
        warmup = max(1, round(config.warmup * config.steps))
        if step < warmup:
            return config.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, config.steps - warmup)
        cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)

    def take(self, packs: Sequence[Pack], *, is_stopping: bool = False) -> bool:
        """Take one step, whose gradients are those of one large batch.

        Args:
            packs: Those of this rank, equally many on each.
            is_stopping: Whether somebody has asked this rank to stop.

        Returns:
            Whether somebody has asked any rank to stop.
        """
        watch, step = self.ranks.watch, self.step + 1
        # The first step compiles. The second tells how long one takes, which nobody knows before.
        is_usual = self._num_taken > 0
        limit_s = 0.0 if self._num_taken > 1 else PATIENCE_S
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        watch.enter(
            "waiting for other ranks to begin the step", step=step, is_waiting=True, limit_s=limit_s
        )
        divisors, is_stopping = self._agree(packs, is_stopping=is_stopping)
        # Whatever is compiled is compiled in the first step; more would be a defect, and slow.
        is_settled = self.is_compiled and is_usual
        stance = "fail_on_recompile" if is_settled else "default"
        is_shared = self.called is None
        for number, pack in enumerate(packs):
            is_last = number == len(packs) - 1
            doing = f"learning pack {number + 1} of {len(packs)}"
            # Ranks that share parameters wait for each other in every layer.
            watch.enter(doing, limit_s=limit_s, is_waiting=is_shared, is_usual=is_usual)
            inputs = to_inputs(self.plan, pack, self.device)
            place = self.ranks.rank * len(packs) + number
            draw_for_pack(self.config.seed, self.step, place, self.device)
            with torch.compiler.set_stance(stance), self._summed(is_last=is_last):
                if self.recorder is not None and is_usual:
                    told = self.recorder.teach(inputs, divisors, is_only=len(packs) == 1)
                else:
                    told = teach(self.working, self.program, inputs, divisors, called=self.called)
            for name in TOLD:
                self.tally.add(name, told[name])
            self.tally.tokens += int((pack.source_hi > 0).sum()) + int((pack.target_hi > 0).sum())
        watch.enter("stepping the optimizer", limit_s=limit_s, is_usual=is_usual)
        limit = self.config.clip or math.inf
        norm = make_whole(nn.utils.clip_grad_norm_(self.program.parameters(), limit))
        self.tally.add("gradient_norm", norm)
        self._halt(norm)
        self.optimizer.step()
        refresh(self.working, self.program)
        self.step += 1
        self.tally.steps += 1
        self.tally.packs.append([fingerprint_pack(pack) for pack in packs])
        self._num_taken += 1
        return is_stopping

    @property
    def sound_step(self) -> int:
        """The last step whose gradient was a finite number; asking waits for the device."""
        return self.step - int(self._num_halted)

    def _halt(self, norm: Tensor) -> None:
        """Let a step whose gradient is no finite number change nothing, nor any step after it.

        So the parameters stay those that went wrong, for whoever asks why. The optimizer is told on the device:
        a look at the number in every step would make the host wait for it.
        """
        is_bad = torch.logical_or(self._num_halted > 0, ~norm.isfinite())
        self._num_halted = self._num_halted + is_bad
        optimizer: Any = self.optimizer
        optimizer.found_inf = is_bad.to(torch.float32)

    def _summed(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Return what a pack is learned within; after the last of a step, gradients are summed over ranks."""
        if self.called is None:
            return summed_at_last(self.program, is_last=is_last)
        return summed(self.called, is_last=is_last)

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
        if told := self.tally.of_all(self.ranks).trouble(tasks):
            return told
        are_finite = torch.stack([local(p).isfinite().all() for p in self.program.parameters()])
        (num_bad,) = self.ranks.add_up([float(not are_finite.all())])
        return "a parameter" if num_bad else ""

    def measure(self, tasks: Sequence[str], *, waited_s: float) -> dict[str, Any]:
        """Return a line of the log, on what happened since the last one."""
        tally, self.tally = self.tally, Tally()
        told = tally.of_all(self.ranks).describe(tasks)
        line = {"step": self.step, "rate": self.rate(self.step - 1), **told}
        return line | {"waited_s": round(waited_s, 3)}

    def training(self) -> dict[str, Any]:
        """Return what going on needs beside the parameters, as a checkpoint can keep it; on all ranks."""
        tally = self.tally.of_all(self.ranks).to_plain()
        return {"optimizer": self.optimizer.state_dict(), "tally": tally}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where ``checkpoint`` was written.

        Raises:
            CheckpointError: It holds other parameters, or nothing to go on with.
        """
        if checkpoint.training is None:
            message = f"{checkpoint.path} holds a model, but no optimizer to train it with"
            raise CheckpointError.of("T0724", message, "train into another directory")
        self.adopt(checkpoint.tensors, checkpoint.path)
        training: Any = checkpoint.training
        self.optimizer.load_state_dict(self._share_optimizer(training["optimizer"]))
        self.step = checkpoint.record["step"]
        names = (checkpoint.record["losses"], name_scored(self.plan.scored))
        self.tally = Tally.from_plain(training["tally"], self.device, *names).share(self.ranks)

    def adopt(self, parameters: Mapping[str, Tensor], origin: object) -> None:
        """Take over whole ``parameters``, as they were read from ``origin``; on all ranks.

        Raises:
            CheckpointError: They are of another program.
        """
        self.program.load(like_own(parameters, self.program.state_dict()), origin)
        refresh(self.working, self.program)

    def _share_optimizer(self, whole: Mapping[str, Any]) -> dict[str, Any]:
        """Return the state of an optimizer as that of this rank's."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state = {
            number: {
                name: take_share(value, parameters[number]) if isinstance(value, Tensor) else value
                for name, value in of_one.items()
            }
            for number, of_one in whole["state"].items()
        }
        return {**whole, "state": state}


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
