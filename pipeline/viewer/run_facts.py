"""What there is to report of a run, read from its directory alone: neither its store nor torch is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..trainer.run_log import (
    DIVERGES,
    NOT_FINITE,
    OUT_OF_MEMORY,
    find_log,
    read_header,
    read_told,
)

FAILURES: Final = (DIVERGES, NOT_FINITE, OUT_OF_MEMORY)
"""Files of a run that name the documents at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run.

    Attributes:
        path: Its directory.
        header: What it learns from and with, in sentences.
        settings: Its settings.
        lines: Lines of its log on steps.
        evaluations: Lines of its log on evaluations.
        samples: What the model answered, by the step of the evaluation.
        failure: Why it ended before its time, and at which step; empty if that is not known.
    """

    path: Path
    header: tuple[str, ...]
    settings: Mapping[str, Any]
    lines: tuple[dict[str, Any], ...]
    evaluations: tuple[dict[str, Any], ...]
    samples: Mapping[int, list[dict[str, Any]]]
    failure: str

    @classmethod
    def read(cls, run: Path) -> RunFacts:
        """Return what the directory ``run`` tells.

        Raises:
            TrainingError: It holds no log (T0784).
        """
        log, header = find_log(run), read_header(run)
        evaluations = tuple(line for line in log if "evaluation" in line)
        steps = {line["step"] for line in evaluations}
        return cls(
            path=run,
            header=tuple(header.get("header", ())),
            settings=header.get("settings", {}),
            lines=tuple(line for line in log if "evaluation" not in line),
            evaluations=evaluations,
            samples={step: found for step in sorted(steps) if (found := _read_samples(run, step))},
            failure=_read_failure(run),
        )

    @property
    def step(self) -> int:
        """The last step that the log tells of."""
        return max((line["step"] for line in (*self.lines, *self.evaluations)), default=0)

    @property
    def steps(self) -> int:
        """Steps that the run is to take."""
        return int(self.settings.get("steps", self.step))

    @property
    def tasks(self) -> list[str]:
        """Names of what has a loss, in order."""
        return list(dict.fromkeys(task for line in self.lines for task in line["tasks"]))

    @property
    def seconds(self) -> float:
        """Seconds that its steps took."""
        return sum(line["seconds"] for line in self.lines)

    def last(self, part: str, name: str) -> float | None:
        """Return the last number ``name`` that lines give in ``part``; None if none does."""
        known = (line.get(part, {}).get(name) for line in reversed(self.lines))
        return next((number for number in known if number is not None), None)

    def step_times(self) -> Iterator[tuple[int, float]]:
        """Yield steps and the seconds that each took, as far as the log tells."""
        for line in self.lines:
            times = line.get("step_s", [])
            yield from zip(
                range(line["step"] - len(times) + 1, line["step"] + 1), times, strict=True
            )

    def slow_steps(self) -> list[dict[str, Any]]:
        """Return the steps that were slow, in order, each with its ``step``, ``seconds`` and ``why``."""
        return [slow for line in self.lines for slow in line.get("slow", [])]

    def time_by_part(self) -> dict[str, float]:
        """Return the seconds of each part of all steps, the longest first."""
        sums: dict[str, float] = {}
        for line in self.lines:
            for name, seconds in line.get("time", {}).items():
                sums[name] = sums.get(name, 0.0) + seconds
        return dict(sorted(sums.items(), key=lambda each: -each[1]))

    def mixture(self) -> dict[str, dict[str, float]]:
        """Return, for each task, what was asked for and what came of it: shares of all samples and tokens."""
        found: dict[str, dict[str, float]] = {}
        for line in self.lines:
            for task, numbers in line.get("mixture", {}).items():
                sums = found.setdefault(
                    task, dict.fromkeys(("samples", "tokens", "asked", "epochs"), 0.0)
                )
                sums["samples"] += numbers.get("samples", 0)
                sums["tokens"] += numbers.get("tokens", 0)
                sums["epochs"] = numbers.get("epochs", 0.0)
                # Shares may change from step to step; each line counts as much as it has steps.
                sums["asked"] += numbers.get("asked", 0.0) * len(line["packs"])
        steps = sum(len(line["packs"]) for line in self.lines)
        samples, tokens = (
            sum(each[name] for each in found.values()) for name in ("samples", "tokens")
        )
        for sums in found.values():
            sums["asked"] /= max(steps, 1)
            sums["sample_share"] = sums["samples"] / max(samples, 1)
            sums["token_share"] = sums["tokens"] / max(tokens, 1)
        return found


def _read_failure(run: Path) -> str:
    if found := read_told(run, NOT_FINITE):
        return f"ended at step {found['step']:,}: {found['what']} is no finite number"
    if found := read_told(run, OUT_OF_MEMORY):
        return f"ended at step {found['step']:,}, which does not fit into memory"
    return ""


def _read_samples(run: Path, step: int) -> list[dict[str, Any]]:
    path = run / "samples" / f"step-{step:08d}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
