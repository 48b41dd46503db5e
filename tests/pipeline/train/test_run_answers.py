"""The page of a run shows a chart of each task, and what was answered to rows, with their pictures."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.viewer.run_answers import MAX_SAMPLES
from taskloom.pipeline.viewer.run_page import render_run

from .stores import continue_run


@pytest.fixture(scope="module")
def judged(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps that was evaluated twice; tests leave it as it is."""
    path = tmp_path_factory.mktemp("judged")
    settings: dict[str, Any] = {"evaluate_every": 10, "evaluate_share": 1.0, "evaluate_rows": 6}
    continue_run(store_dir, path, steps=20, **settings)
    return path


def read_samples(run: Path, step: int) -> list[dict[str, Any]]:
    text = (run / "samples" / f"step-{step:08d}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def cards_of(page: str) -> list[str]:
    """Return the samples of a page, each as it is drawn."""
    return page.split('<div class="card sample">')[1:]


def words_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def points_of(page: str, title: str) -> dict[str, list[tuple[int, str]]]:
    """Return the series of a chart by name: steps, and numbers as they are read out."""
    (data,) = re.findall(f'aria-label="{title}" data-series="(.*?)"', page)
    series = json.loads(unescape(data))
    return {each["name"]: [(step, told) for step, _, _, told in each["at"]] for each in series}


def test_every_sample_is_shown_with_its_picture_prompt_and_answers(judged: Path) -> None:
    samples, before = read_samples(judged, 20), read_samples(judged, 10)
    cards = cards_of(render_run(judged))
    assert len(cards) == len(samples) > 1
    for card, sample, first in zip(cards, samples, before, strict=True):
        (name,) = sample["pictures"]
        drawn = [
            base64.b64decode(each)
            for each in re.findall(r'src="data:image/png;base64,(.*?)"', card)
        ]
        assert drawn == [(judged / "samples" / name).read_bytes()]
        is_right = sample["answer"] == sample["reference"]
        assert f'<p class="answer {"right" if is_right else "wrong"}">' in card
        verdict = "" if is_right else f" right: {sample['reference']}"
        asked = f"{sample['task']} {sample['row']} {sample['prompt']}"
        answered = f"{sample['answer']}{verdict} 10: {first['answer']}"
        assert words_of(card).startswith(f"{asked} {answered}")


def test_right_and_wrong_answers_and_those_before_are_told_apart(
    judged: Path, tmp_path: Path
) -> None:
    said = {10: ["one", "two", "ten"], 20: ["one", "one", ""], 30: ["six", "two", "ten"]}
    (tmp_path / "samples").mkdir()
    log = [json.loads(line) for line in (judged / "log.jsonl").read_text("utf-8").splitlines()]
    evaluations = [line for line in log if "evaluation" in line]
    lines = [*log, evaluations[-1] | {"step": 30}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, answers in said.items():
        samples = [
            {"task": "count", "row": f"a:{n}", "prompt": "how many?", "reference": "two"}
            | {"answer": answer, "pictures": []}
            for n, answer in enumerate(answers)
        ]
        path = tmp_path / "samples" / f"step-{step:08d}.jsonl"
        path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    wrong, right, changed = cards_of(render_run(tmp_path))
    assert words_of(wrong) == "count a:0 how many? six right: two 10: one"
    assert words_of(right) == "count a:1 how many? two 10: two 20: one"
    assert words_of(changed).startswith("count a:2 how many? ten right: two 10: ten 20: ")
    assert "<img" not in wrong


def test_no_more_samples_are_shown_than_a_page_holds(judged: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "log.jsonl").write_bytes((judged / "log.jsonl").read_bytes())
    line = json.dumps(read_samples(judged, 20)[0]) + "\n"
    (tmp_path / "samples" / "step-00000020.jsonl").write_text(line * (MAX_SAMPLES + 1))
    assert len(cards_of(render_run(tmp_path))) == MAX_SAMPLES


def test_a_run_that_was_not_evaluated_has_no_samples(judged: Path, tmp_path: Path) -> None:
    text = (judged / "log.jsonl").read_text("utf-8")
    lines = [
        line for line in text.splitlines(keepends=True) if "evaluation" not in json.loads(line)
    ]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    assert "<h2>Samples</h2>" in render_run(judged)
    assert "<h2>Samples</h2>" not in render_run(tmp_path)


def test_every_task_has_charts_of_its_losses_and_scores(judged: Path) -> None:
    page, log = render_run(judged), read_log(judged)
    steps = [line for line in log if "evaluation" not in line]
    judgements = [
        (line["step"], line["evaluation"]["tasks"]) for line in log if "evaluation" in line
    ]
    assert {task for line in steps for task in line["tasks"]} == {"digits", "spell"}
    for task in ("digits", "spell"):
        told = [(step, tasks[task]) for step, tasks in judgements if task in tasks]
        expected = {
            "training": [(line["step"], f"{line['tasks'][task]['loss']:.3g}") for line in steps]
        }
        if told:
            expected["validation"] = [(step, f"{each['loss']:.3g}") for step, each in told]
            scores = {"corrected": [(step, f"{each['corrected']:.2f}") for step, each in told]}
            assert points_of(page, f"Corrected score of {task}") == scores
        assert points_of(page, f"Loss of {task}") == expected
