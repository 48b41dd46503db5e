"""Pictures and diagrams are what their languages allow, whatever users have written."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskloom.graph.diff import compare
from taskloom.graph.explain import explain
from taskloom.graph.render.dot import render_dot
from taskloom.graph.render.mermaid import FOLD_ABOVE, render_mermaid
from taskloom.graph.render.picture_file import render_svg
from taskloom.graph.view import State, Status
from taskloom.graph.view_form import View

from .plans import plan_like_tasks, plan_prompt, plan_two_tasks
from .test_view import measured

HOSTILE = (
    "</script><script>\x1b[2J\u202e \"quoted\" '\\N' %%{init: {}}%% `code` --> end; #35; &amp; ]]>"
)
SVG = "{http://www.w3.org/2000/svg}"
DOT = shutil.which("dot")

views = pytest.mark.parametrize(
    "view",
    [
        pytest.param(plan_two_tasks().view(), id="two tasks"),
        pytest.param(plan_like_tasks(30).view(), id="thirty tasks"),
        pytest.param(measured(plan_like_tasks(30)), id="thirty tasks, measured"),
        pytest.param(plan_two_tasks().view(resize_images=State(Status.STALE, "why")), id="states"),
        pytest.param(
            compare(plan_two_tasks().view(), plan_prompt(HOSTILE).view(HOSTILE)), id="hostile diff"
        ),
        pytest.param(plan_prompt(HOSTILE).view(HOSTILE), id="hostile"),
    ],
)

_TEXT = r'"(?:[^"#<>&\\`{}%;]|\#\d+;|<br/>)*"'
MERMAID = re.compile(
    rf"""(?x:
      %%[ ](?:[^{{}}]*)
    | flowchart[ ]TB
    | \ \ subgraph[ ](?:offline|online|device)\[{_TEXT}\]
    | \ \ \ \ b\d+\[{_TEXT}\]
    | \ \ end
    | \ \ b\d+[ ](?:-->|==>|-\.->)[ ]b\d+
    | \ \ classDef[ ]\w+[ ][\w\-:,\#. ]+
    | \ \ class[ ]b\d+(?:,b\d+)*[ ]\w+
    )"""
)


@views
def test_mermaid_keeps_to_the_grammar_line_by_line(view: View) -> None:
    text = render_mermaid(view)
    lines = text.splitlines()
    assert [line for line in lines if not MERMAID.fullmatch(line)] == []
    boxes = re.findall(r"^    (b\d+)\[", text, re.MULTILINE)
    assert len(boxes) == len(set(boxes))
    ends = set(re.findall(r"(?<!#)\bb\d+\b", "\n".join(line for line in lines if "[" not in line)))
    assert ends <= set(boxes)
    assert text.count("  subgraph ") == text.count("\n  end\n") == len(view["lanes"])


@settings(max_examples=40)
@given(st.text(), st.text(min_size=1))
def test_no_text_leaves_its_quotes_in_mermaid(title: str, prompt: str) -> None:
    lines = render_mermaid(plan_prompt(f"say {prompt}").view(title)).split("\n")[:-1]
    assert [line for line in lines if not MERMAID.fullmatch(line)] == []


def test_mermaid_is_folded_above_sixty_nodes() -> None:
    view = plan_like_tasks(6).view()
    assert len(view["nodes"]) > FOLD_ABOVE
    assert render_mermaid(view).count('["*.') == 9
    assert "*." not in render_mermaid(plan_two_tasks().view())


@views
def test_an_svg_file_stands_alone(view: View) -> None:
    text = render_svg(view)
    root = ET.fromstring(text)
    assert root.tag == f"{SVG}svg"
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert tags <= {"svg", "title", "style", "rect", "path", "g", "text", "tspan", "circle"}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not {name for name in attributes if name.startswith(("on", "href", "src"))}
    style = root.find(f"{SVG}style")
    assert style is not None
    assert style.text
    assert "prefers-color-scheme: dark" in style.text
    assert not re.search(r"var\(|url\(|@import|https?:", style.text)
    assert float(root.attrib["width"]) > 100


@views
@pytest.mark.parametrize("render", [render_svg, render_dot, render_mermaid, explain])
def test_no_control_character_is_written(view: View, render: Callable[[View], str]) -> None:
    assert all(c.isprintable() or c == "\n" for c in render(view))


def test_an_svg_file_says_its_states_in_words() -> None:
    text = render_svg(plan_two_tasks().view(resize_images=State(Status.STALE, "why")))
    assert ">stale</text>" in text
    assert 'class="mark stale"' in text


@views
def test_graphviz_takes_the_dot_and_draws_every_box(view: View, tmp_path: Path) -> None:
    if DOT is None:
        pytest.skip("graphviz is not installed: whether it takes what is written was not tested")
    text = render_dot(view)
    (tmp_path / "graph.dot").write_text(text, "utf-8")
    command = [DOT, "-Tplain", str(tmp_path / "graph.dot")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    drawn = re.findall(r"^node (b\d+) ", done.stdout, re.MULTILINE)
    assert sorted(drawn) == sorted(re.findall(r"^    (b\d+) \[", text, re.MULTILINE))


def test_dot_says_what_users_wrote_and_no_more(tmp_path: Path) -> None:
    if DOT is None:
        pytest.skip("graphviz is not installed: what it reads in labels was not tested")
    (tmp_path / "graph.dot").write_text(
        render_dot(plan_prompt(r'\N "x" &lt; \x').view(r"\G")), "utf-8"
    )
    command = [DOT, "-Tsvg", str(tmp_path / "graph.dot")]
    svg = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    texts = ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]
    assert r"\G" in texts
    assert any(r'text="\\N \"x\" &lt; \\x"' in text.replace("\xa0", " ") for text in texts)
