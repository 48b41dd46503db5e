"""The bar of a run tells its pace, loss, tokens a second, MFU where the peak is known, memory and time left."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskloom.graph.render.quantity import write_bytes, write_share
from taskloom.pipeline import train
from taskloom.pipeline.model import hardware
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.trainer.run_measures import StepMeasures

from .stores import CONFIG, MODEL, make_mixture


@pytest.fixture
def frames(
    store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, peak: float
) -> list[str]:
    """What a terminal shows of a run of 30 steps into the test's folder, one frame after the other."""
    if peak:
        known = hardware.HARDWARE["h100"]
        known = replace(known, named="^cpu$", peaks={"float32": peak})
        monkeypatch.setattr(hardware, "HARDWARE", {"cpu": known})
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    mixture, config = make_mixture(has_rows=False), replace(CONFIG, steps=30)
    train(mixture, store_dir, out=tmp_path, model=MODEL, config=config)
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    return [frame.strip() for frame in re.split(r"[\r\n]+", told) if frame.startswith("train ")]


@pytest.mark.parametrize("peak", [0.0, 1e11])
def test_beside_the_bar_stands_what_the_last_line_of_the_log_tells(
    frames: list[str], tmp_path: Path, peak: float
) -> None:
    line = read_log(tmp_path)[-1]
    speed = line["speed"]
    mfu = f"MFU {write_share(speed['mfu'])}, " if peak else ""
    assert speed["mfu"] == (speed["flops_per_s"] / peak if peak else None)
    told = (
        f"/s, loss {line['loss']:.3f}, {speed['tokens_per_s']:,.0f} tokens/s, {mfu}"
        f"{write_bytes(line['memory']['host_bytes'])}"
    )
    assert frames[-1].endswith(told), frames[-1]
    assert " 30/30 " in frames[-1]
    assert "loss" not in frames[0], "no line has been written yet"


@pytest.mark.parametrize("peak", [0.0])
def test_the_pace_is_that_of_steps_that_nobody_prepared_or_measured(
    frames: list[str], tmp_path: Path
) -> None:
    step_s = [seconds for line in read_log(tmp_path) for seconds in line["step_s"]]
    measured = StepMeasures.read(tmp_path)
    assert measured is not None
    uncounted = {1, *range(measured.first, measured.first + measured.steps)}
    counted = [seconds for step, seconds in enumerate(step_s, 1) if step not in uncounted]
    (pace,) = re.findall(r" ([\d,]+\.\d)/s, loss", frames[-1])
    expected = len(counted) / sum(counted)
    assert float(pace.replace(",", "")) == pytest.approx(expected, rel=0.02)
