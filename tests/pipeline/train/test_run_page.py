"""The page of a run is one file that loads nothing, runs nothing of its users, and tells what the log tells."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from PIL import Image

from taskloom.graph.errors import TrainingError
from taskloom.pipeline import Run
from taskloom.pipeline.trainer.run_log import read_log
from taskloom.pipeline.viewer.chart import MAX_POINTS, Chart, Series, thin
from taskloom.pipeline.viewer.run_page import render_run

CHROMIUM = shutil.which("chromium")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[2J"


def write_run(path: Path, word: str = "plain") -> Path:
    """Write what a run of 40 steps leaves, with a task, a row and an answer named ``word``."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "header.json").write_text(json.dumps({"header": [word], "settings": {"steps": 40}}))
    lines: list[dict[str, Any]] = []
    for step in (10, 20, 30, 40):
        mixture = {word: {"samples": 30, "tokens": 900, "asked": 1.0, "epochs": step / 10}}
        slow = [{"step": step - 3, "seconds": 0.4, "why": "checkpoint"}] if step > 10 else []
        lines.append(
            {
                "step": step,
                "rate": 1e-3,
                "loss": 4 / step,
                "gradient_norm": 1.0,
                "tokens": 900,
                "packs": ["0" * 16] * 10,
                "seconds": 1.5,
                "tasks": {word: {"loss": 4 / step, "labels": 30.0, "gradient_share": 1.0}},
                "mixture": mixture,
                "speed": {"tokens_per_s": 600.0, "flops_per_s": 1e9, "mfu": None},
                "memory": {"host_bytes": 1 << 30},
                "time": {"computing": 1.0, "waiting for data": 0.1, "checkpoint": 0.4},
                "step_s": [0.1] * 6 + [0.4] + [0.1] * 3,
                "slow": slow,
            }
        )
    told = {"loss": 0.2, "score": 0.5, "baseline": 0.1, "corrected": 0.4}
    evaluation = {"tasks": {word: told}, "mean": told, "metric": "corrected", "value": 0.4}
    lines.append({"step": 40, "evaluation": evaluation | {"stops": False}, "seconds": 0.1})
    (path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sample = {"task": word, "row": word, "prompt": word, "reference": "yes", "answer": word}
    (path / "samples").mkdir(exist_ok=True)
    (path / "samples" / "step-00000040.jsonl").write_text(
        json.dumps(sample | {"pictures": ["one.png"]}) + "\n"
    )
    Image.new("RGB", (8, 8)).save(path / "samples" / "one.png")
    return path


def load_browser() -> Any:
    """Return the module of the tests of pages that drives a browser."""
    path = Path(__file__).parents[2] / "graph" / "browser.py"
    spec = importlib.util.spec_from_file_location("browser", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_of_a_users_words_becomes_an_element(tmp_path: Path) -> None:
    tags = [
        re.findall(r"<(/?[a-z]\w*)", render_run(write_run(tmp_path / name / "run", word)))
        for name, word in {"a": "plain", "b": HOSTILE}.items()
    ]
    assert tags[0] == tags[1]
    page = render_run(tmp_path / "b" / "run")
    assert all(c.isprintable() or c == "\n" for c in page)


def test_the_page_loads_nothing_and_its_policy_allows_nothing_else(tmp_path: Path) -> None:
    page = render_run(write_run(tmp_path))
    assert "default-src 'none'" in page
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert set(re.findall(r'src="(.*?)[,"]', page)) == {"data:image/png;base64"}
    assert "style=" not in page


def test_the_page_tells_what_the_log_tells(tmp_path: Path) -> None:
    page = render_run(write_run(tmp_path, "caption"))
    text = unescape(re.sub(r"<[^>]*>", " ", page))
    for told in (
        "step 40 of 40",
        "0.100",
        "600",
        "1.00 GiB",
        "3 steps took twice as long",
        "checkpoint",
    ):
        assert told in text, told
    assert re.search(r"caption\s+100\.0%\s+100\.0%\s+100\.0%\s+120\s+4\.00", text)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("not-finite.json", "ended at step 41: the loss of caption is no finite number"),
        ("out-of-memory.json", "ended at step 41, which does not fit into memory"),
    ],
)
def test_the_page_of_a_run_that_failed_says_why_and_leads_to_the_rows(
    tmp_path: Path, name: str, told: str
) -> None:
    facts = {"step": 41, "what": "the loss of caption", "documents": []}
    (write_run(tmp_path) / name).write_text(json.dumps(facts))
    page = render_run(tmp_path)
    assert f"step 40 of 40, {told}" in unescape(page)
    assert f'href="{name}"' in page


def test_steps_below_a_chart_are_whole() -> None:
    series = Series(name="loss", kind="loss", points=[(1, 2.0)])
    drawn = Chart(title="loss", series=[series], last=1).draw()
    assert re.findall(r'y="214" text-anchor="\w+">(\d)</text>', drawn) == ["0", "1"]


def test_a_real_run_becomes_a_page_of_moderate_size(run: Run) -> None:
    page = render_run(run.path)
    assert len(page) < 100_000
    for line in run.header:
        assert line in unescape(page)
    loss = read_log(run.path)[-1]["loss"]
    assert f"<b>{loss:.3f}</b>" in page


def test_links_lead_into_the_run_from_beside_it_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "one")
    for place, link in {"runs/one/a.html": "log.jsonl", "runs/a.html": "one/log.jsonl"}.items():
        assert f'<a href="{link}">' in render_run(run, tmp_path / place)
    assert "<a href" not in render_run(run, tmp_path / "a.html")


def test_a_directory_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"(?s)T0784.*holds no log.jsonl"):
        render_run(tmp_path)


def test_the_command_writes_the_page_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['taskloom', 'report', sys.argv[1]]\n"
        "from taskloom.pipeline.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(write_run(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")


points = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=900).map(
    lambda ys: [*enumerate(ys, 1)]
)


@given(points, st.sampled_from(["linear", "log"]))
@example([(1, 5e-324)], "linear")
def test_every_point_of_a_chart_lies_within_its_frame(given_points: Any, scale: Any) -> None:
    series = Series(name="s", points=thin(given_points), kind="train")
    chart = Chart(title="t", series=(series,), last=len(given_points), scale=scale)
    drawn = chart.draw()
    data = json.loads(unescape(re.findall(r'data-series="(.*?)"', drawn)[0]))
    for _, x, y, _ in data[0]["at"]:
        assert 0 <= x <= chart.width
        assert 0 <= y <= chart.height


@given(points)
def test_thinned_points_keep_the_last_step_and_the_greatest_number(given_points: Any) -> None:
    thinned = thin(given_points, by="max")
    assert len(thinned) <= MAX_POINTS
    assert thinned[-1][0] == given_points[-1][0]
    assert max(y for _, y in thinned) == max(y for _, y in given_points)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [600, 1400])
def test_the_page_fits_its_window_and_reads_its_charts_out(tmp_path: Path, width: int) -> None:
    page = tmp_path / "run.html"
    page.write_text(render_run(write_run(tmp_path / "run")), "utf-8")
    browser = load_browser().Browser(str(CHROMIUM), tmp_path / "profile")
    try:
        browser.look(width, 900)
        browser.open(page.as_uri())
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        browser.run("document.querySelector('.chart').focus()")
        browser.press("ArrowRight")
        assert "step 20" in browser.run("document.getElementById('readout').textContent")
        browser.press("Escape")
        assert browser.run("document.getElementById('readout').hidden")
        assert browser.errors == []
        assert [url for url in browser.urls if not url.startswith("data:")] == [page.as_uri()]
    finally:
        browser.close()
