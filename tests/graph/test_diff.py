"""A diff says what changed once, what follows, and nothing of what is as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskloom.graph.diff import Holdings, compare
from taskloom.graph.explain import explain
from taskloom.graph.node import NodeId
from taskloom.graph.view import State, Status
from taskloom.graph.view_form import ChangeKind, NodeView, View

from .plans import Planning, Task, plan_like_tasks, plan_two_tasks
from .test_view import check

CAPTION = Task(name="caption", source="coco", answer="caption")
VQA = Task(name="vqa", source="coco", prompt="answer in a word:", question="question")

tasks = st.builds(
    Task,
    name=st.sampled_from(["a", "b", "c"]),
    source=st.sampled_from(["coco", "flickr"]),
    prompt=st.sampled_from(["what?", "say:"]),
    image=st.sampled_from(["img", "photo"]),
    question=st.sampled_from(["", "question"]),
    answer=st.sampled_from(["answer", "caption"]),
)
mixtures = st.lists(tasks, max_size=3, unique_by=lambda task: task.name)


def view(*given: Task, size: int = 224) -> View:
    return Planning(size=size).plan(given).view("plan")


def kinds(diff: View) -> Counter[str]:
    return Counter(str(change["kind"]) for node in diff["nodes"] if (change := node["change"]))


def of(diff: View, address: str) -> NodeView:
    (node,) = [node for node in diff["nodes"] if address in node["addresses"]]
    return node


def facts(diff: View, address: str) -> Mapping[str, tuple[str, str]]:
    change = of(diff, address)["change"]
    assert change
    return {fact["what"]: (fact["was"], fact["now"]) for fact in change["facts"]}


@settings(max_examples=40)
@given(mixtures, mixtures)
def test_a_diff_is_a_view_of_all_nodes_of_both(old: list[Task], new: list[Task]) -> None:
    were, now = view(*old), view(*new)
    diff = compare(were, now)
    assert check(diff) == []
    is_gone = [node["change"]["kind"] == "removed" for node in diff["nodes"] if node["change"]]
    keys = [node["key"] for node in diff["nodes"]]
    kept = [key for key, gone in zip(keys, is_gone, strict=True) if not gone]
    assert kept == [node["key"] for node in now["nodes"]]
    assert len(were["nodes"]) == len(kept) - kinds(diff)["added"] + sum(is_gone)
    assert all(edge["maker"] < edge["user"] for edge in diff["edges"])
    for node in diff["nodes"]:
        for site in node["sites"]:
            assert site["stop"] <= len(diff["instructions"][site["instruction"]]["text"])


@settings(max_examples=40)
@given(mixtures)
def test_nothing_becomes_of_a_graph_that_stays(given: list[Task]) -> None:
    diff = compare(view(*given), view(*given))
    assert set(kinds(diff)) <= {"same"}
    assert {edge["change"] for edge in diff["edges"]} <= {ChangeKind.SAME}


@settings(max_examples=40)
@given(mixtures, tasks)
def test_adding_a_task_changes_nothing_else(given: list[Task], other: Task) -> None:
    more = [*given, replace(other, name="d")]
    assert set(kinds(compare(view(*given), view(*more)))) <= {"same", "added"}
    assert set(kinds(compare(view(*more), view(*given)))) <= {"same", "removed"}


def test_a_parameter_changes_its_node_and_what_follows_to_the_end_of_its_rows() -> None:
    diff = compare(view(CAPTION, VQA), view(CAPTION, VQA, size=64))
    assert kinds(diff)["changed"] == 1
    assert facts(diff, "caption.img/resize")["height"] == ("224", "64")
    assert "[64,64,3]" in facts(diff, "caption.img/resize")["type"][1]
    following = {
        n["address"] for n in diff["nodes"] if n["change"] and n["change"]["kind"] == "follows"
    }
    assert {"caption/document", "vqa/document"} <= following
    assert (
        of(diff, "encoder")["change"]
        == of(compare(view(CAPTION), view(CAPTION)), "encoder")["change"]
    )


def test_a_task_that_got_another_name_has_moved_only() -> None:
    diff = compare(view(CAPTION), view(replace(CAPTION, name="tell")))
    assert set(kinds(diff)) == {"moved", "same"}
    assert facts(diff, "tell.img/resize") == {"address": ("caption.img/resize", "tell.img/resize")}


def test_a_task_that_got_another_name_and_changed_is_still_itself() -> None:
    diff = compare(view(CAPTION), view(replace(CAPTION, name="tell"), size=64))
    assert facts(diff, "tell.img/resize")["width"] == ("224", "64")
    assert not kinds(diff).keys() & {"added", "removed"}


def test_a_prompt_changes_the_text_and_no_column() -> None:
    diff = compare(view(CAPTION), view(replace(CAPTION, prompt="say:")))
    assert not any(node["change"]["rebuilds"] for node in diff["nodes"] if node["change"])
    assert facts(diff, "caption.text@10")["text"] == ('"what does the image show?"', '"say:"')
    labels = [instruction["label"] for instruction in diff["instructions"]]
    assert labels == ["caption:1", "caption:1, before"]


def test_a_slot_more_is_added_with_all_that_leads_to_it() -> None:
    diff = compare(view(CAPTION), view(replace(CAPTION, question="question")))
    added = {n["address"] for n in diff["nodes"] if n["change"] and n["change"]["kind"] == "added"}
    assert added == {f"caption.question{step}" for step in ("", "/format", "/encode")}
    assert facts(diff, "caption/document")["reads source.2"] == ("", "caption.question/encode")


def test_what_is_gone_stands_below_what_it_read() -> None:
    diff = compare(view(replace(CAPTION, question="question")), view(CAPTION))
    gone = [n["address"] for n in diff["nodes"] if n["change"] and n["change"]["kind"] == "removed"]
    assert gone == [f"caption.question{step}" for step in ("", "/format", "/encode")]
    assert any(edge["change"] == ChangeKind.REMOVED for edge in diff["edges"])


def test_columns_that_a_build_computes_anew_are_told_with_rows_and_bytes() -> None:
    old = view(CAPTION, VQA)
    (resize,) = [node for node in old["nodes"] if node["op"] == "resize_images"]
    held = Holdings(rows={"coco": 1000}, bytes={NodeId(resize["key"], "coco"): 5})
    diff = compare(old, view(CAPTION, VQA, size=64), holdings=held)
    rebuilt = [node for node in diff["nodes"] if node["change"] and node["change"]["rebuilds"]]
    assert [node["op"] for node in rebuilt] == ["resize_images"]
    change = rebuilt[0]["change"]
    assert change
    assert (change["rows"], change["bytes"]) == (1000, 1000 * 64 * 64 * 3)
    text = explain(diff)
    assert "a build computes 1 column anew, 1,000 values, about 11.7 MiB" in text


def test_a_column_without_a_size_by_its_type_is_as_large_as_it_was() -> None:
    old = view(CAPTION)
    encode = of(old, "caption.caption/encode")
    held = Holdings(rows={"coco": 10}, bytes={NodeId(encode["key"], "coco"): 77})
    change = of(
        compare(old, view(replace(CAPTION, answer="other")), holdings=held), "caption.other/encode"
    )
    assert change["change"]
    assert change["change"]["bytes"] == 77


def test_a_column_that_the_store_has_is_not_computed_anew() -> None:
    new = Planning(size=64).plan([CAPTION]).view(resize_images=State(Status.CACHED))
    diff = compare(view(CAPTION), new)
    assert not any(node["change"]["rebuilds"] for node in diff["nodes"] if node["change"])


@pytest.mark.parametrize("number", [30, 200])
def test_one_change_among_many_like_tasks_stays_in_sight(number: int) -> None:
    old = plan_like_tasks(number).view()
    new = json.loads(json.dumps(old))
    decode = next(node for node in new["nodes"] if node["address"] == "task_007.img/decode")
    decode["version"] += 1
    decode["key"] = "f" * 32
    text = explain(compare(old, new))
    assert "~ task_007.img/decode" in text
    assert "op decode_images (version 2) → decode_images (version 3)" in text
    assert len(text.splitlines()) < 25


def test_text_of_a_diff_names_what_changed_and_counts_the_rest() -> None:
    text = explain(compare(plan_two_tasks().view("old"), view(CAPTION)))
    assert text.splitlines()[0].startswith("old → plan ")
    assert "- vqa.question/encode" in text
    assert "node as before" in text.replace("nodes", "node")
    assert "resize_images" not in text
