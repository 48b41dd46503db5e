"""Whatever users and models write, a terminal shows it and obeys none of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.graph.errors import ProjectError, Site, Span
from taskloom.graph.render.printable import printable, printable_lines
from taskloom.pipeline.progress import open_progress
from taskloom.pipeline.terminal import print_json, read_rows, say, say_answer


def test_answers_take_one_line_each_and_texts_keep_theirs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_answer("a\x1b[2Jb\nc")
    say("one\x07\ntwo\x1b[31m", is_error=True)
    printed = capsys.readouterr()
    assert printed.out == "a\\x1b[2Jb\\nc\n"
    assert printed.err == "one\\x07\ntwo\\x1b[31m\n"


def test_progress_shows_control_characters_too(capfd: pytest.CaptureFixture[str]) -> None:
    with open_progress() as shown:
        shown.say("a\x1b[31mb\nc")
    assert capfd.readouterr().err == "a\\x1b[31mb\nc\n"


@given(st.text())
def test_no_character_that_a_terminal_obeys_is_printed(text: str) -> None:
    assert not {*map(chr, range(32)), "\x7f", "\x9b", "\u202e"} & set(printable(text))
    assert printable_lines(text).count("\n") == text.count("\n")


def test_carets_stand_under_wide_characters() -> None:
    text = "描述 [IMAGES:x]"
    lines = str(Site("task:1", text, Span(4, 10))).splitlines()
    assert lines == ["  --> task:1", f"   | {text}", "   |       ^^^^^^"]


def test_json_is_json_even_where_numbers_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "\x1b", "number": 1.5}, is_line=True)
    assert json.loads(capsys.readouterr().out) == {"text": "\x1b", "number": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"number": float("nan")})


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        pytest.param(b'{"a": 1}\n{"a": \n', "T0807", "line 2 of the rows is not JSON", id="broken"),
        pytest.param(b"[1, 2]\n", "T0807", "line 1 of the rows is not a row", id="a list"),
        pytest.param(b'{"a": "\xe9"}', "T0806", "rows.jsonl is not UTF-8", id="latin 1"),
    ],
)
def test_rows_that_are_none_are_refused(
    tmp_path: Path, content: bytes, code: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=message) as caught:
        read_rows(path)
    assert caught.value.problems[0].code == code


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"a": "line\u2028separator"}\n\n', "utf-8")
    assert read_rows(path) == [{"a": "line\u2028separator"}]
