"""The learner: parameters, optimizer and learning rate, one step at a time."""

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
from ..model.precision import refresh, working_copy
from ..model.program import Program
from ..planner.planning import Plan
from ..settings import TrainConfig
from .recording import TOLD, Recorder, teach
from .tally import Tally


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
    recorder: Recorder | None = None
    step: int = 0
    tally: Tally = field(default_factory=Tally)
    _is_warm: bool = False
    _num_halted: Tensor = field(init=False)
    _tasks: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._tasks = [task for task in self.plan.tasks for _ in self.plan.templates(task)]
        self._num_halted = torch.zeros((), dtype=torch.int64, device=self.device)

    @classmethod
    def make(cls, plan: Plan, config: TrainConfig, device: torch.device) -> Self:
        """Return a learner at step 0; parameters come from torch's global random numbers."""
        return cls.of(Program(plan), plan, config, device)

    @classmethod
    def of(cls, program: Program, plan: Plan, config: TrainConfig, device: torch.device) -> Self:
        """Return a learner of ``program`` at step 0."""
        program = program.to(device).train()
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
        working = working_copy(plan, program, config.precision)
        is_compiled = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
        if is_compiled:
            working.compile_layers()
        return cls(plan, program, working, optimizer, config, device, is_compiled)

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

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``, counted from 0: warm-up, then half a cosine."""
        config = self.config
        warmup = max(1, round(config.warmup * config.steps))
        if step < warmup:
            return config.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, config.steps - warmup)
        cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)

    def take(self, packs: Sequence[Pack]) -> None:
        """Take one step on ``packs``, whose gradients are those of one large batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        divisors = self._divide(packs)
        # Whatever is compiled is compiled in the first step; more would be a defect, and slow.
        is_settled = self.is_compiled and self._is_warm
        stance = "fail_on_recompile" if is_settled else "default"
        for pack in packs:
            inputs = to_inputs(self.plan, pack, self.device)
            with torch.compiler.set_stance(stance):
                if self.recorder is not None and self._is_warm:
                    told = self.recorder.teach(inputs, divisors, is_only=len(packs) == 1)
                else:
                    told = teach(self.working, self.program, inputs, divisors)
            for name in TOLD:
                self.tally.add(name, told[name])
            self.tally.count(pack, self._tasks)
        limit = self.config.clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.program.parameters(), limit)
        self.tally.add("gradient_norm", norm)
        self._halt(norm)
        self.optimizer.step()
        refresh(self.working, self.program)
        self.step += 1
        self.tally.steps += 1
        self.tally.packs.append(fingerprint(packs))
        self._is_warm = True

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
        line = {"step": self.step, "rate": self.rate(self.step - 1), **tally.describe(tasks)}
        return line | {"waited_s": round(waited_s, 3)}

    def save(self, run: Path, record: Mapping[str, Any], artifacts: Mapping[str, bytes]) -> Path:
        """Write a checkpoint of the run in directory ``run`` and return its path."""
        training = {
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "tally": self.tally.to_plain(),
        }
        if self.device.type == "cuda":
            training["cuda_random"] = torch.cuda.get_rng_state(self.device)
        path = checkpoint_path(run, self.step)
        write_checkpoint(
            path,
            tensors=self.program.state_dict(),
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
        self.program.load(checkpoint.tensors, checkpoint.path)
        refresh(self.working, self.program)
        training: Any = checkpoint.training
        self.optimizer.load_state_dict(training["optimizer"])
        torch.set_rng_state(training["random"])
        if self.device.type == "cuda" and "cuda_random" in training:
            torch.cuda.set_rng_state(training["cuda_random"], self.device)
        self.step = checkpoint.record["step"]
        names = (checkpoint.record["losses"], name_scored(self.plan.scored))
        self.tally = Tally.from_plain(training["tally"], self.device, *names)


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
