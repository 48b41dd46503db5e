"""Progress is told in lines where there is no terminal, and nothing in a line is broken or changed."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from taskloom.pipeline import progress
from taskloom.pipeline.progress import open_progress

ODD = "[IMAGE:img] [bold]x[/] :smile: \\[a] " + "word " * 60 + "end"


def test_lines_come_out_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    with open_progress() as shown:
        shown.say(ODD)
    assert capfd.readouterr().err == f"{ODD}\n"


def test_nothing_is_shown_where_nothing_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    with open_progress(shown=False) as shown, shown.task("build", total=2) as bar:
        shown.say("word")
        bar.advance(2)
    assert capfd.readouterr() == ("", "")


def test_a_line_tells_units_rate_time_left_rejects_and_note() -> None:
    with open_progress(shown=False) as shown:
        with shown.task("build", total=3000, unit="rows") as bar:
            bar.advance(1000, rejects=3)
            bar.advance(1000)
            bar.note("done soon")
            told = r"build: 2,000 of 3,000 rows, [\d,.]+ rows/s, \d+ s left, 3 rejected, done soon"
            assert re.fullmatch(told, bar.line())
        with shown.task("read") as bar:
            bar.advance(7)
            assert re.fullmatch(r"read: 7, [\d,.]+/s", bar.line())


def test_what_was_done_before_counts_as_done_and_not_for_the_rate() -> None:
    with open_progress(shown=False) as shown, shown.task("train", total=10, done=9) as bar:
        assert bar.line() == "train: 9 of 10, 0.0/s, 1,000,000,000 s left"


def test_the_time_left_goes_by_the_pace_that_was_set() -> None:
    with open_progress(shown=False) as shown, shown.task("train", total=100) as bar:
        bar.advance(10)
        bar.set_pace(0.5)
        assert bar.line() == "train: 10 of 100, 0.5/s, 180 s left"


def test_lines_come_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_progress() as shown, shown.task("build", total=9, unit="rows") as bar:
        bar.advance()
        assert capfd.readouterr().err == ""
        monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
        bar.advance()
        assert capfd.readouterr().err.startswith("build: 2 of 9 rows, ")


SCRIPT = """
from taskloom.pipeline.progress import open_progress
with open_progress() as shown:
    shown.say("[x] " + "y" * 200)
    with shown.task("build [a]", total=3, unit="rows") as bar:
        bar.advance(3, rejects=1)
    with shown.task("train", total=100) as bar:
        bar.set_pace(0.01)
        bar.advance(10)
"""


def test_a_terminal_shows_a_bar_with_rate_time_left_and_rejects() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        told = b""
        try:
            while piece := os.read(ours, 65536):
                told += piece
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.decode())
    assert "[x] " + "y" * 200 in text.replace("\r\n", "\n")
    assert "build [a]" in text
    assert "3/3" in text
    assert "rows/s, 1 rejected" in text
    assert re.search(r"train .* 10/100 \S+ 2:30:00 0.0/s", text), "90 of them take 100 s each"
