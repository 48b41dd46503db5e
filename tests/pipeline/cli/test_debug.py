"""Rows are questioned from the command line, and nothing in them moves a cursor or becomes markup."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from taskloom.pipeline.config.project import load_project
from taskloom.pipeline.viewer.inspection import open_plan
from taskloom.pipeline.viewer.peek_page import render_trace
from taskloom.pipeline.viewer.peek_text import print_trace
from taskloom.pipeline.viewer.pick import pick_row
from taskloom.pipeline.viewer.previews import sample_previews
from taskloom.pipeline.viewer.trace import Trace, trace_row
from taskloom.storage.store import Store

from .conftest import Project, make_rows, write_project

HOSTILE = "\x1b[31mred\x1b[2J\x1b]0;owned\x07</script><script>alert(1)</script>\u202e<b>&"
BAD, ODD = 5, 6
"""A row that is no image, and one whose label is hostile."""


class Reader(HTMLParser):
    """Collects the elements of a page, and what could load or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [v or "" for k, v in attrs if k in {"src", "href", "action", "data"}]
        self.handlers += [k for k, _ in attrs if k.startswith("on") or k == "style"]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was built with a row that is no image, and with a label that is hostile."""
    project = write_project(tmp_path_factory.mktemp("spoiled"))
    rows = [dict(row) for row in make_rows()]
    rows[BAD]["image"] = HOSTILE
    rows[ODD]["parity"] = HOSTILE
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (project.folder / "rows.jsonl").write_text(text, "utf-8")
    done = project.taskloom("build", "project.yaml")
    assert done.code == 0, done.err
    assert re.search(r"= replay: taskloom replay store \w{4}:5$", done.err, re.MULTILINE)
    return project


def trace(project: Project, task: str, which: str, split: str | None = None) -> Trace:
    """Return the trace of a row."""
    loaded = load_project(project.file)
    store = loaded.find_store()
    planned = open_plan(loaded.mixture, store, model=loaded.model)
    picked = pick_row(planned, loaded.mixture[task], store, which, split)  # pyright: ignore[reportArgumentType]
    return trace_row(planned, task, picked.table, row=picked.row)


def shown(made: Trace) -> dict[str, str]:
    """Return what each node of a trace shows."""
    return {s.address_in(made.task): s.preview["text"] for s in made.steps if s.preview}


def is_safe(text: str) -> bool:
    return all(c == "\n" or c.isprintable() for c in text)


def test_peek_shows_a_row_after_every_node_in_order(spoiled: Project) -> None:
    done = spoiled.taskloom("peek", "project.yaml", "parity", "--row", "3")
    assert (done.code, done.err) == (0, "")
    heads = [line.split("  ")[0] for line in done.out.splitlines()[1:] if not line.startswith(" ")]
    image = ["parity.image", "parity.image/decode", "parity.image/resize"]
    assert heads[1:4] == image
    assert heads[-2:] == ["parity/document", "pack"]
    assert "    16 x 16 pixels" in done.out
    assert re.search(r"0:<bos> \d+:is 2:<eos> 1:<image_16_8: 4 positions> .*\[\d+:odd\]", done.out)
    assert is_safe(done.out)


def test_a_bad_row_is_shown_up_to_where_it_fails(spoiled: Project) -> None:
    done = spoiled.taskloom("peek", "project.yaml", "digits", "--row", f"id={BAD}", "--json")
    assert done.code == 1
    steps = {step["address"]: step for step in done.json["steps"]}
    assert steps["digits.image/decode"]["problem"]["code"] == "T0301"
    assert steps["digits.image/resize"]["note"] == "not run: digits.image/decode has no value"
    assert steps["digits/document"]["note"] == "not run: digits.image/resize has no value"
    assert steps["digits.label/encode"]["preview"]["kind"] == "tokens"


def test_peek_needs_no_build_and_says_what_waits_for_one(project: Project) -> None:
    made = trace(project, "digits", "3")
    assert made.row == "3"
    notes = {step.address_in("digits"): step.note for step in made.steps if step.note}
    assert notes["bpe-main"] == "a build fits it"
    assert notes["digits.text@14/encode"] == "not run: bpe-main is not fitted yet"
    assert shown(made)["digits.image/resize"] == "16 x 16 pixels"


@pytest.mark.parametrize("which", ["17", "id=17", "{partition}:17"])
def test_a_row_is_named_by_number_value_or_row_id(spoiled: Project, which: str) -> None:
    (partition,) = Store.open(spoiled.folder / "store").source("digits").partitions
    made = trace(spoiled, "digits", which.format(partition=partition.id[:6]))
    assert made.row == f"{partition.id}:17"
    assert shown(made)["digits/key"] == "17"


def test_a_split_is_counted_without_the_other_rows(spoiled: Project) -> None:
    seen = [shown(trace(spoiled, "digits", str(number), "test")) for number in (0, 1)]
    assert [each["digits/split"] for each in seen] == ["test", "test"]
    assert seen[0]["digits/key"] != seen[1]["digits/key"]
    unfiltered = shown(trace(spoiled, "digits", "0"))
    assert unfiltered["digits/key"] == "0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("999",), "it has 160 rows, numbered from 0", id="number"),
        pytest.param(("0123456789:1",), "its partitions are", id="row id"),
        pytest.param(("name=7",), "columns are id, image, label, parity", id="column"),
        pytest.param(("id=x",), "no row has it in column id", id="value"),
        pytest.param(("999", "valid"), "it has 0 rows in split valid", id="split"),
    ],
)
def test_a_row_that_is_not_there_is_told(
    spoiled: Project, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Exception, match=f"T0816(.|\n)*{message}"):
        trace(spoiled, "digits", *arguments)


def test_a_page_of_a_hostile_row_holds_nothing_but_its_words(spoiled: Project) -> None:
    page = render_trace(trace(spoiled, "parity", str(ODD)))
    plain = Reader(render_trace(trace(spoiled, "parity", "3")))
    hostile = Reader(page)
    assert hostile.tags == plain.tags
    assert "script" not in hostile.tags
    assert hostile.handlers == []
    assert all(link.startswith("data:image/png;base64,") for link in hostile.links)
    assert is_safe(page)
    assert "&lt;/script&gt;&lt;script&gt;" in page
    bad = render_trace(trace(spoiled, "digits", str(BAD)))
    assert "error[T0301]" in bad
    assert "script" not in Reader(bad).tags
    assert is_safe(bad)


def test_colours_come_from_us_alone(spoiled: Project, tmp_path: Path) -> None:
    for number, has_colours in ((3, True), (ODD, True), (ODD, False), (BAD, True)):
        path = tmp_path / f"{number}.txt"
        with path.open("w", encoding="utf-8") as file:
            console = Console(
                file=file,
                force_terminal=has_colours,
                color_system="truecolor" if has_colours else None,
            )
            print_trace(trace(spoiled, "parity", str(number)), console)
        text = path.read_text("utf-8")
        assert ("▀" in text) is (has_colours and number != BAD)
        assert is_safe(re.sub(r"\x1b\[[\d;]*m", "", text) if has_colours else text)
        assert "\x1b[31mred" not in text
        assert "\x07" not in text


def test_peek_at_one_node_says_whose_parameters_it_used(spoiled: Project) -> None:
    done = spoiled.taskloom("peek", "project.yaml", "digits", "--row", "2", "--at", "encoder")
    assert done.code == 0, done.err
    assert done.out.startswith("with new parameters, of seed 0\nrow ")
    assert "float32, 12 x 32" in done.out


def test_the_ledger_is_listed_and_its_ids_are_replayed(spoiled: Project) -> None:
    done = spoiled.taskloom("ledger", "project.yaml", "--json")
    assert done.code == 0, done.err
    (group,) = done.json["groups"]
    assert (group["code"], group["address"]) == ("T0301", "digits.image/decode")
    (identity,) = group["ids"]
    plain = spoiled.taskloom("ledger", "store")
    assert f"ids: {identity}" in plain.out
    assert is_safe(plain.out)
    replayed = spoiled.taskloom("replay", "store", identity)
    assert replayed.code == 1
    assert replayed.out.endswith("fails the same way\n")
    assert "   | ^^^^^^^^^^^^^" in replayed.out
    assert is_safe(replayed.out)


def test_a_saved_row_is_replayed_with_no_store_and_debugged_where_its_op_raises(
    spoiled: Project, tmp_path: Path
) -> None:
    (identity,) = spoiled.taskloom("ledger", "store", "--json").json["groups"][0]["ids"]
    saved = tmp_path / "row.arrow"
    done = spoiled.taskloom("replay", "project.yaml", identity, "--save", str(saved))
    assert (done.code, done.out) == (0, f"wrote {saved}\n")
    alone = Project(tmp_path).taskloom("replay", "row.arrow", "--json")
    assert alone.code == 1
    assert [each["outcome"] for each in alone.json] == ["same"]
    commands = "p type(op).__name__, op.max_pixels\np inputs['values'].to_pylist()\nq\n"
    debugged = Project(tmp_path).taskloom_apart("replay", "row.arrow", "--pdb", stdin=commands)
    assert "('DecodeImages', 67108864)" in debugged.out
    assert repr([HOSTILE]) in debugged.out
    assert "-> raise RowErrors(reasons)" in debugged.out


def test_samples_are_in_a_page_of_the_graph_only_where_they_are_asked_for(
    spoiled: Project, tmp_path: Path
) -> None:
    for options, number in (((), 0), (("--samples", "2"), 2)):
        out = tmp_path / f"{number}.json"
        assert spoiled.taskloom("graph", "project.yaml", "-o", str(out), *options).code == 0
        nodes = {node["address"]: node for node in json.loads(out.read_text("utf-8"))["nodes"]}
        previews = nodes["digits.image/resize"]["previews"]
        assert len(previews) == number
        for preview in previews:
            content = base64.b64decode(preview["image"].partition(",")[2])
            assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(("peek", "project.yaml", "digit"), "T0219", id="unknown task"),
        pytest.param(("peek", "project.yaml", "digits", "--split", "dev"), "T0806", id="split"),
        pytest.param(("replay", "store", "ffff:1"), "T0513", id="unknown row"),
        pytest.param(("replay", "store"), "T0806", id="no row"),
        pytest.param(("replay", "rows.jsonl"), "T0515", id="no capsule"),
        pytest.param(("ledger", "nowhere"), "T0801", id="no store"),
    ],
)
def test_what_is_asked_wrong_is_told(
    spoiled: Project, arguments: tuple[str, ...], code: str
) -> None:
    done = spoiled.taskloom(*arguments)
    assert done.code == 1
    assert f"error[{code}]: " in done.err
    assert "Traceback" not in done.err


def test_previews_of_a_view_are_those_of_the_first_rows(spoiled: Project) -> None:
    loaded = load_project(spoiled.file)
    store = Store.open(loaded.store)
    planned = open_plan(loaded.mixture, store, model=loaded.model)
    previews = sample_previews(planned, loaded.mixture, store, 2)
    rows = [view["row"].partition(":")[2] for view in previews[planned.graph["digits/key"].id]]
    assert rows == ["0", "1"]
    assert {len(views) for views in previews.values() if views} == {2}
