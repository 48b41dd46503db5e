"""Everything wrong with an instruction is found at once, pointed at, and comes with what to do."""

from __future__ import annotations

import pickle
import time
from typing import cast

import pytest

from taskloom.graph import attribute
from taskloom.graph.errors import InstructionError, Problem
from taskloom.graph.instruction import parse_instruction
from taskloom.graph.lexer import PROBLEMS

# Each case: text, and for each problem its code, what is underlined, and a part of the help.
WRONG = [
    pytest.param("", [("T0104", "", "source -> target")], id="no text"),
    pytest.param("a b", [("T0104", "a b", "source -> target")], id="no arrow"),
    pytest.param("a -> b -> c -> d", [("T0104", "->", r"\->")] * 2, id="several arrows"),
    pytest.param(" -> ", [("T0105", "->", "source")], id="both sides empty"),
    pytest.param("a ||| b ->", [("T0106", "|||", "list")], id="several templates"),
    pytest.param("[IMGE:img] ->", [("T0103", "IMGE", "did you mean IMAGE?")], id="typo"),
    pytest.param("[image:img] ->", [("T0103", "image", "did you mean IMAGE?")], id="lower case"),
    pytest.param("[SMELL:x] ->", [("T0103", "SMELL", "known: AUDIO, BOX")], id="no near modality"),
    pytest.param("[note] ->", [("T0103", "note", r"\[ and \]")], id="a word in brackets"),
    pytest.param("[see p. 3] ->", [("T0109", "[see p. 3]", r"\[ and \]")], id="no slot"),
    pytest.param("[3] ->", [("T0109", "[3]", "[IMAGE:img]")], id="a number in brackets"),
    pytest.param("a [] ->", [("T0109", "[]", r"\[ and \]")], id="empty brackets"),
    pytest.param("[:img] ->", [("T0109", "[:img]", "[MODALITY:name]")], id="no modality"),
    pytest.param("[IMAGE:] ->", [("T0110", ":", "[IMAGE:name]")], id="no name"),
    pytest.param("[IMAGE:my img] ->", [("T0110", "my img", "digits")], id="name with a space"),
    pytest.param("[IMAGE:a:b] ->", [("T0110", "a:b", "digits")], id="name with a colon"),
    pytest.param("[IMAGE:a] -> [TEXT:a]", [("T0111", "a", "one column")], id="two modalities"),
    pytest.param("[TEXT:a,] ->", [("T0112", ",", "key=value")], id="empty attribute"),
    pytest.param(
        "[TEXT:a,,uncased] ->", [("T0112", ",", "key=value")], id="empty attribute inside"
    ),
    pytest.param("[TEXT:a,=5] ->", [("T0112", ",=5", "key=value")], id="value without a key"),
    pytest.param("[TEXT:a,b c=1] ->", [("T0112", "b c", "digits")], id="malformed key"),
    pytest.param("[TEXT,adapter=] ->", [("T0112", "=", "leave")], id="no value"),
    pytest.param(
        "[TEXT,adapter=b c] ->", [("T0112", "b c", 'adapter="b c"')], id="value needs quotes"
    ),
    pytest.param(
        "[TEXT,adapter='b'] ->", [("T0112", "'b'", "adapter=\"'b'\"")], id="single quotes"
    ),
    pytest.param("[TEXT,max_length=1e999] ->", [("T0112", "1e999", "double")], id="infinite"),
    pytest.param(
        f"[TEXT,max_length={1 << 63}] ->", [("T0112", str(1 << 63), "64")], id="long number"
    ),
    pytest.param(
        f"[TEXT,max_length={'9' * 9999}] ->", [("T0112", "9" * 9999, "64")], id="very long number"
    ),
    pytest.param("[TEXT,uncased,uncased] ->", [("T0113", "uncased", "drop")], id="twice"),
    pytest.param('[TEXT,adapter="b] ->', [("T0114", '"b', "end the value")], id="unclosed quote"),
    pytest.param('[TEXT,adapter="b"c] ->', [("T0114", '"b"c', r"\"")], id="text after a quote"),
    pytest.param(
        r'[TEXT,adapter="\q"] ->', [("T0115", r"\q", r"\\")], id="unknown escape in quotes"
    ),
    pytest.param(r"\frac -> [TEXT:a]", [("T0115", r"\f", r"\\")], id="unknown escape"),
    pytest.param("a -> b\\", [("T0115", "\\", r"\\")], id="backslash at the end"),
    pytest.param("a [TEXT:a ->", [("T0107", "[", 'close it with "]"')], id="unclosed bracket"),
    pytest.param("[TEXT:a -> [TEXT:b]", [("T0107", "[", "close")], id="unclosed before the arrow"),
    pytest.param("[a [TEXT:a] -> b", [("T0107", "[", "close")], id="unclosed group"),
    pytest.param("[ [TEXT:a] | [TEXT:b] -> c", [("T0107", "[", "close")], id="unclosed pair"),
    pytest.param("a] -> b", [("T0108", "]", r"\]")], id="stray bracket"),
    pytest.param("[TEXT:a])* ->", [("T0108", ")*", "a space")], id="end of no group"),
    pytest.param("([TEXT:a] -> b)*", [("T0108", ")*", "begins")], id="group across the arrow"),
    pytest.param(
        "[TEXT:a [BOX:b]] ->", [("T0116", "[TEXT:a [BOX:b]]", "MODALITY")], id="nested slot"
    ),
    pytest.param(
        "[TEXT:a [BOX]]* ->", [("T0116", "[TEXT:a [BOX]]*", "MODAL")], id="nested, starred"
    ),
    pytest.param("[[TEXT:a]] ->", [("T0116", "[[TEXT:a]]", '"]*"')], id="double brackets"),
    pytest.param("(a ([BOX])* )* ->", [("T0116", "([BOX])*", "text and slots")], id="nested group"),
    pytest.param(
        "[ [[BOX]]* ]* ->", [("T0116", "[[BOX]]*", "text and slots")], id="group in brackets"
    ),
    pytest.param(
        "([[BOX:a]|[BOX:b]])* ->", [("T0116", "[[BOX:a]|[BOX:b]]", "slots")], id="pair in group"
    ),
    pytest.param("[and]* ->", [("T0117", "[and]*", "[MODALITY:name]")], id="group without slot"),
    pytest.param("[BOX:b]* ->", [("T0117", "[BOX:b]*", "([BOX:b])*")], id="starred slot"),
    pytest.param("([BOX:b])+ ->", [("T0118", "+", "a space")], id="plus"),
    pytest.param("([BOX:b])** ->", [("T0118", "**", '"*"')], id="two stars"),
    pytest.param("([BOX:b]){2} ->", [("T0118", "{", '"*"')], id="count"),
    pytest.param("[[BOX:b]]+ ->", [("T0118", "+", '"*"')], id="plus after brackets"),
    pytest.param(
        "[IMAGE:a|TEXT:b] ->", [("T0119", "[IMAGE:a|TEXT:b]", "of its own")], id="bare pair"
    ),
    pytest.param(
        "[[BOX:a]|[BOX:b]|[BOX:c]] ->",
        [("T0119", "[[BOX:a]|[BOX:b]|[BOX:c]]", "a pair is")],
        id="3",
    ),
    pytest.param("[[BOX:a]|b] ->", [("T0119", "[[BOX:a]|b]", "a pair is")], id="pair with text"),
    pytest.param(
        "[[BOX:a]|[BOX:b]]* ->", [("T0119", "[[BOX:a]|[BOX:b]]*", "( … )*")], id="starred pair"
    ),
    pytest.param("a\nb ->", [("T0102", "␊", "one line")], id="line break"),
    pytest.param("a\u2028b ->", [("T0102", "\ufffd", "one line")], id="line separator"),
    pytest.param("a\tb\x7fc ->", [("T0102", "␉", "one line")], id="control characters"),
    pytest.param("a\ud800b ->", [("T0102", "\ufffd", "one line")], id="half a surrogate pair"),
    pytest.param(
        "-> [TEXT:a,max_lenght=8]", [("T0120", "max_lenght=8", "max_length?")], id="attribute typo"
    ),
    pytest.param(
        "[TEXT:a,Uncased] ->", [("T0120", "Uncased", "did you mean uncased?")], id="capitals"
    ),
    pytest.param(
        "[TEXT:a,colour=red] ->", [("T0120", "colour=red", "known: adapter, ")], id="unknown"
    ),
    pytest.param(
        "[TEXT:a,patch=8] ->", [("T0120", "patch=8", "slots that have it: IMAGE")], id="of another"
    ),
    pytest.param(
        "[IMAGE:a] -> [IMAGE:b,is_label]",
        [("T0120", "is_label", "known: adapter, length")],
        id="legacy name of an attribute of another",
    ),
    pytest.param(
        "[TEXT:a,colour=] ->",
        [("T0120", "colour=", "known"), ("T0112", "=", "leave")],
        id="unknown, and no value",
    ),
    pytest.param(
        "[TEXT:a,max_length] ->", [("T0121", "max_length", "max_length=…")], id="number wanted"
    ),
    pytest.param(
        "[TEXT:a,max_length=8.5] ->", [("T0121", "max_length=8.5", "whole")], id="no whole number"
    ),
    pytest.param(
        "[TEXT:a,uncased=1] ->", [("T0121", "uncased=1", "uncased alone")], id="flag with a value"
    ),
    pytest.param(
        "[TEXT:a,adapter] ->", [("T0121", "adapter", "adapter=… with text")], id="text wanted"
    ),
    pytest.param(
        "[TEXT:a,max_length=0] ->", [("T0122", "max_length=0", "Ids kept")], id="below the least"
    ),
    pytest.param(
        "-> [TEXT:a,loss_weight=0]", [("T0122", "loss_weight=0", "loss")], id="at an open end"
    ),
    pytest.param(
        "[TEXT:a,mask_ratio=1.5] -> b", [("T0122", "mask_ratio=1.5", "masked")], id="above"
    ),
    pytest.param(
        "[IMAGE:a,preprocess=imagnet] ->",
        [("T0123", "preprocess=imagnet", "did you mean imagenet?")],
        id="misspelt choice",
    ),
    pytest.param(
        "[MOTION:a,adapter=image_vit] ->",
        [("T0123", "adapter=image_vit", "known: motion_6d, text")],
        id="choice of another modality",
    ),
    pytest.param(
        "[TEXT:a,adaptor=txt] ->", [("T0123", "adaptor=txt", "mean text?")], id="legacy, misspelt"
    ),
    pytest.param(
        "[TEXT:a,closed_set] -> b",
        [("T0215", "closed_set", "a target slot stands right of the arrow")],
        id="closed set left of the arrow",
    ),
    pytest.param(
        "[TEXT:a,no_loss] -> b", [("T0215", "no_loss", "target")], id="no loss left of the arrow"
    ),
    pytest.param(
        "a -> [IMAGE:b,mask_ratio=0.5]",
        [("T0215", "mask_ratio=0.5", "a source slot stands left of the arrow")],
        id="masked image right of the arrow",
    ),
    pytest.param(
        "-> ([BOX:b,size=3] [TEXT:c,max_length=0])*",
        [("T0120", "size=3", "IMAGE"), ("T0122", "max_length=0", "Ids")],
        id="attributes in a group",
    ),
    pytest.param(
        "[[IMAGE:a,sise=3]|[TEXT:b,closed_set]] -> c",
        [("T0120", "sise=3", "size?"), ("T0215", "closed_set", "target")],
        id="attributes in a pair",
    ),
    pytest.param(
        "([BOX:a] [TEXT:a])* ->", [("T0111", "a", "one column")], id="two modalities in a group"
    ),
    pytest.param("[|[TEXT:a]] ->", [("T0119", "[|[TEXT:a]]", "a pair is")], id="half a pair"),
    pytest.param(
        "[[IMAGE:a]||[TEXT:b]] ->",
        [("T0119", "[[IMAGE:a]||[TEXT:b]]", "a pair is")],
        id="two bars",
    ),
    pytest.param(
        "[TEXT:a] -> b ||| c -> d",
        [("T0106", "|||", "list"), ("T0104", "->", r"\->")],
        id="two templates",
    ),
    pytest.param(
        "a] [IMGE:x,y=] [] b",
        [
            ("T0104", "a] [IMGE:x,y=] [] b", "source"),
            ("T0108", "]", "bracket"),
            ("T0103", "IMGE", "IMAGE"),
            ("T0112", "=", "leave"),
            ("T0109", "[]", "slot"),
        ],
        id="everything at once, in order",
    ),
]


def underlined(problem: Problem) -> str:
    site = problem.sites[0]
    return site.text[site.span.start : site.span.stop]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_wrong_text_is_pointed_at(text: str, expected: list[tuple[str, str, str]]) -> None:
    with pytest.raises(InstructionError) as caught:
        parse_instruction(text)
    problems = caught.value.problems
    assert [(p.code, underlined(p)) for p in problems] == [
        (code, part) for code, part, _ in expected
    ]
    for problem, (_, _, advice) in zip(problems, expected, strict=True):
        assert advice in problem.help


def test_there_is_a_case_for_every_code() -> None:
    cases = cast("list[list[tuple[str, str, str]]]", [case.values[1] for case in WRONG])
    codes = {code for case in cases for code, _, _ in case} | {"T0101"}
    assert codes == {"T0120", *PROBLEMS, *attribute.PROBLEMS}


def test_an_error_shows_the_line_with_a_caret_and_what_to_do() -> None:
    with pytest.raises(InstructionError) as caught:
        parse_instruction(
            "[IMGE:img] what does the image describe? -> [TEXT:cap]", label="caption:1"
        )
    assert str(caught.value) == (
        'error[T0103]: unknown modality "IMGE"\n'
        "  --> caption:1\n"
        "   | [IMGE:img] what does the image describe? -> [TEXT:cap]\n"
        "   |  ^^^^\n"
        "   = did you mean IMAGE?"
    )


def test_a_name_with_two_modalities_shows_both_places() -> None:
    with pytest.raises(InstructionError) as caught:
        parse_instruction("[IMAGE:a] -> [TEXT:a]")
    assert [site.span.start for site in caught.value.problems[0].sites] == [19, 7]


@pytest.mark.parametrize("text", [None, 3, b"[TEXT:a] ->", ["[TEXT:a] ->"]])
def test_what_is_no_text_is_refused(text: object) -> None:
    with pytest.raises(InstructionError, match=f"T0101.*got {type(text).__name__}"):
        parse_instruction(cast("str", text))


def test_errors_cross_process_boundaries() -> None:
    with pytest.raises(InstructionError) as caught:
        parse_instruction("[IMGE:img] a]")
    returned = pickle.loads(pickle.dumps(caught.value))
    assert type(returned) is InstructionError
    assert returned.problems == caught.value.problems
    assert str(returned) == str(caught.value)


@pytest.mark.parametrize(
    "piece", ["[", "(", "]", ")*", '[TEXT:a,x="', ',x="', "\\", "|", "[TEXT:a"]
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    start = time.process_time()
    with pytest.raises(InstructionError):
        parse_instruction("[TEXT:a" + piece * 5000)
    assert time.process_time() - start < 2
