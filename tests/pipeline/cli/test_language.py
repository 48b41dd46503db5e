"""What is wrong with an instruction is told by the command line in words, what is legacy in passing."""

from __future__ import annotations

import json
import re
import warnings
from typing import cast

import pytest

from ...command_line import run_here as taskloom
from ...graph.test_instruction_errors import WRONG

CASES = [
    (cast("str", case.values[0]), cast("list[tuple[str, str, str]]", case.values[1]))
    for case in WRONG
]


def test_there_are_seventy_wrong_instructions_and_more() -> None:
    assert len(CASES) >= 70


@pytest.mark.parametrize("verb", ["explain", "slots"])
def test_every_wrong_instruction_is_told_in_order_and_without_a_traceback(verb: str) -> None:
    told = {text: taskloom(verb, text) for text, _ in CASES if "->" in text and "|||" not in text}
    assert len(told) > 70
    expected = dict(CASES)
    for text, done in told.items():
        codes = re.findall(r"^error\[(T\d{4})\]: ", done.err, re.MULTILINE)
        assert codes == [code for code, _, _ in expected[text]], text
        assert (done.code, done.out) == (1, ""), text
        assert "Traceback" not in done.err


@pytest.mark.parametrize("text", ["[IMGE:a] -> ||| -> [TEXT:b,x]", "a ||| b ->"])
def test_wrong_templates_are_told_together(text: str) -> None:
    done = taskloom("explain", text)
    assert done.code == 1
    assert (
        re.findall(r"--> (task:\d)", done.err)
        == {
            "[IMGE:a] -> ||| -> [TEXT:b,x]": ["task:1", "task:2"],
            "a ||| b ->": ["task:1"],
        }[text]
    )


def test_a_warning_is_told_once_and_without_the_line_of_a_file() -> None:
    done = taskloom("explain", "[IMAGE:image] -> [TEXT:label,is_label]")
    assert done.code == 0
    assert done.err == (
        "warning[T0125]: is_label is closed_set here\n"
        "  --> task:1\n"
        "   | [IMAGE:image] -> [TEXT:label,is_label]\n"
        "   |                              ^^^^^^^^\n"
        "   = write closed_set\n"
    )
    assert "stored" in done.out


def test_a_warning_stays_out_of_what_a_program_reads() -> None:
    done = taskloom("slots", "[IMAGE:image] -> [TEXT:label,is_label]", "--json")
    assert [slot["attributes"] for slot in json.loads(done.out)] == [{}, {"closed_set": True}]
    assert done.err.startswith("warning[T0125]")


def test_warnings_of_others_are_shown_as_python_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> None:
        warnings.warn("something else", DeprecationWarning, stacklevel=1)
        raise SystemExit(7)

    monkeypatch.setattr("taskloom.pipeline.task.parse_instructions", parse)
    with pytest.warns(DeprecationWarning, match="something else"):
        done = taskloom("slots", "-> [TEXT:a]")
    assert (done.code, done.err) == (7, "")


def test_slots_are_shown_also_where_they_cannot_be_planned() -> None:
    done = taskloom(
        "slots", "[VIDEO:film] [IMAGE:q,mask_ratio=0.3] -> ([BOX] [TEXT:a,closed_set])*"
    )
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "task:1   [VIDEO:film] [IMAGE:q,mask_ratio=0.3] -> ([BOX:box] [TEXT:a,closed_set])*",
        "  side    modality  column  attributes      within  lacks",
        "  source  VIDEO     film                            recipe",
        "  source  IMAGE     q       mask_ratio=0.3          mask_ratio=0.3",
        "  target  BOX       box                     group",
        "  target  TEXT      a       closed_set      group",
    ]


def test_what_is_missing_for_a_plan_is_named() -> None:
    done = taskloom("explain", "[VIDEO:film] [IMAGE:q,mask_ratio=0.3] -> [TEXT:a]")
    assert re.findall(r"error\[(T\d{4})\]: (\w+)", done.err) == [
        ("T0231", "VIDEO"),
        ("T0124", "mask_ratio"),
    ]
    assert done.err.count("docs/adding-a-modality.md") == 2
