"""Plans: what tasks stand for, what is refused and where, and what an edit leaves as it was."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from taskloom.graph.errors import PlanError
from taskloom.graph.node import Value
from taskloom.graph.op import Rows
from taskloom.graph.passes.cut import Stage
from taskloom.graph.recipe import Pinned
from taskloom.pipeline import Mixture, Plan, Task, plan

DIGITS = "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]"
VQA = "[IMAGE:image] [TEXT:question] -> [TEXT:answer,closed_set]"
SENTIMENT = (
    'is the sentiment of text " [TEXT:text] " positive or negative? -> [TEXT:label,closed_set]'
)
DEMO = {"digits": DIGITS, "vqa": VQA, "sentiment": SENTIMENT}
PINNED = {
    "bpe-main": Pinned(kind="bpe", digest="b" * 32),
    **{
        f"closed-set-{slot}": Pinned(kind="closed_set", digest="c" * 32)
        for slot in ("digits.label", "vqa.answer", "sentiment.label")
    },
}

prompts = st.text(st.sampled_from("abc ?!,"), max_size=20)


def make_tasks(**instructions: str) -> list[Task]:
    """Return a task for each instruction, on a source of its own."""
    return [
        Task(name, text, source=[], holdout=0.1, key="id") for name, text in instructions.items()
    ]


def stored(planned: Plan) -> dict[str, str]:
    """Return the key of every stored value by each of its addresses."""
    return {
        address: value.node.key
        for value in planned.cut.stored
        for address in planned.graph.nodes[value.node].note.addresses
    }


def on_device(planned: Plan) -> list[str]:
    """Return the ops of the device half."""
    return [node.op for node in planned.graph if planned.cut.stages[node.id] is Stage.DEVICE]


def test_the_demo_stores_pixels_ids_and_splits() -> None:
    planned = plan(make_tasks(**DEMO), pinned=PINNED)
    assert stored(planned).keys() == {
        "digits.image/resize",
        "digits.label/encode",
        "digits/split",
        "vqa.image/resize",
        "vqa.question/encode",
        "vqa.answer/encode",
        "vqa/split",
        "sentiment.text/encode",
        "sentiment.label/encode",
        "sentiment/split",
    }
    assert not planned.fits


def test_the_demo_fits_one_vocabulary_and_a_closed_set_for_each_task() -> None:
    planned = plan(make_tasks(**DEMO))
    assert set(planned.fits) == PINNED.keys()
    planned.graph.verify()


def test_inference_reads_no_target_and_needs_no_split() -> None:
    planned = plan(make_tasks(**DEMO), "infer", pinned=PINNED)
    read = [node for node in planned.graph if planned.catalogue[node.op].traits.rows is Rows.READ]
    columns = {str(node.params["column"]) for node in read}
    assert columns == {"image", "question", "text"}


def test_what_parses_bytes_from_outside_runs_in_processes_of_its_own() -> None:
    planned = plan(make_tasks(digits=DIGITS), pinned=PINNED)
    isolated = {
        planned.graph.nodes[value.node].address: segment.needs_process
        for segment in planned.segments
        for value in segment.stored
    }
    assert isolated == {
        "digits.image/resize": True,  # parses bytes from outside
        "digits.label/encode": False,
        "digits/split": False,
    }


def test_a_slot_overrides_the_default() -> None:
    slots = {"IMAGE": {"size": 32, "patch": 8}}
    text = "[IMAGE:a] [IMAGE:b,size=64] -> [TEXT:c]"
    planned = plan(Mixture(make_tasks(t=text), slots=slots))
    sizes = [planned.graph[f"t.{name}/resize"].params["height"] for name in "ab"]
    assert sizes == [32, 64]


@given(prompts, prompts)
def test_editing_a_prompt_changes_the_key_of_no_column(before: str, after: str) -> None:
    old, new = (
        plan(make_tasks(digits=f"[IMAGE:image] {p} -> [TEXT:label,closed_set]"), pinned=PINNED)
        for p in (before, after)
    )
    assert stored(old) == stored(new)


def test_adding_a_slot_adds_one_column() -> None:
    old = plan(make_tasks(vqa="[IMAGE:image] -> [TEXT:answer,closed_set]"), pinned=PINNED)
    new = plan(make_tasks(vqa=VQA), pinned=PINNED)
    assert stored(new).keys() - stored(old).keys() == {"vqa.question/encode"}
    assert stored(old).items() <= stored(new).items()


def test_adding_a_task_changes_no_key_and_no_address_of_the_others() -> None:
    old = plan(make_tasks(digits=DIGITS, vqa=VQA), pinned=PINNED)
    new = plan(make_tasks(sentiment=SENTIMENT, digits=DIGITS, vqa=VQA), pinned=PINNED)
    assert stored(old).items() <= stored(new).items()
    for node in old.graph:
        if old.cut.stages[node.id] is Stage.OFFLINE:
            assert node.note.addresses <= new.graph.nodes[node.id].note.addresses


def test_tasks_over_one_source_share_nodes_and_keep_both_addresses() -> None:
    rows: list[dict[str, str]] = []
    task = Task("one", "[IMAGE:image] what is it? -> [TEXT:label]", source=rows)
    source = task.named_source()
    other = Task("two", "[IMAGE:image] [TEXT:label] -> [TEXT:answer]", source=source)
    planned = plan([Task("one", task.instruction, source=source), other])
    shared = planned.graph["one.image/resize"]
    assert shared.note.addresses == {"one.image/resize", "two.image/resize"}
    assert {site.label for site in shared.note.sites} == {"one:1", "two:1"}
    assert planned.graph["two.label/normalize"] is planned.graph["one.label/normalize"]


def test_the_number_of_device_nodes_does_not_depend_on_the_number_of_tasks() -> None:
    few, many = (
        plan(make_tasks(**{f"t{i}": VQA.replace("answer", f"a{i}") for i in range(number)}))
        for number in (3, 30)
    )
    assert on_device(few) == on_device(many)
    scopes = [{node.scope for node in planned.graph if node.scope} for planned in (few, many)]
    assert scopes[0] == scopes[1]


def test_a_filter_decides_what_is_learned_from_and_rewrites_no_column() -> None:
    plain = Task("digits", DIGITS, source=[], holdout=0.1, key="id")
    picky = Task("digits", DIGITS, source=[], holdout=0.1, key="id", where=["id > 3", "is_clean"])
    old, new = plan(plain, pinned=PINNED), plan(picky, pinned=PINNED)
    added = stored(new).keys() - stored(old).keys()
    assert added == {"digits/where.id/compare", "digits/where.is_clean/compare"}
    assert stored(old).items() <= stored(new).items()
    fitted = plan(picky)
    (splits,) = (
        v for p, v in fitted.graph["closed-set-digits.label"].inputs.items() if p == "splits"
    )
    made_of = {node.op for node in fitted.graph.needs([splits])}
    assert {"assign_splits", "compare_values", "mask_splits"} <= made_of


def test_what_is_stored_can_be_asked_for() -> None:
    planned = plan(make_tasks(digits=DIGITS), pinned=PINNED, persist=["digits.image/decode"])
    assert "digits.image/decode" in stored(planned)
    with pytest.raises(PlanError, match="T0214"):
        plan(make_tasks(digits=DIGITS), persist=["digits/document"])


def test_equal_tasks_give_equal_plans_in_any_order() -> None:
    forth, back = (
        plan(make_tasks(**dict(items))) for items in (DEMO.items(), [*DEMO.items()][::-1])
    )
    assert stored(forth) == stored(back)
    assert dict(forth.fits) == dict(back.fits)


def test_a_thousand_tasks_over_twenty_sources_make_one_graph() -> None:
    sources = [Task(f"s{i}", DIGITS, source=[]).named_source() for i in range(20)]
    tasks = [
        Task(
            f"t{i}",
            f"[IMAGE:image] question {i}? [TEXT:text{i % 7}] -> [TEXT:label{i % 11}]",
            source=sources[i % 20],
            holdout=0.1,
            key="id",
        )
        for i in range(1000)
    ]
    planned = plan(tasks)
    assert len(planned.members) == 1000
    assert sum(node.op == "decode_images" for node in planned.graph) == 20
    assert len([v for v in planned.cut.stored if isinstance(v, Value)]) == 20 * (1 + 1 + 7 + 11)


def test_an_instruction_alone_needs_no_source() -> None:
    planned = plan(Task("task", DIGITS))
    assert stored(planned).keys() == {"task.image/resize", "task.label/encode", "task/split/read"}
