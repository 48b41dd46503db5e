"""Identity of what is stored: a column's key says what its values are, and nothing of who asks for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from taskloom.graph.graph import Graph
from taskloom.graph.node import Node
from taskloom.graph.passes.cut import Stage
from taskloom.graph.recipe import Pinned
from taskloom.ops.catalogue import whole_catalogue
from taskloom.pipeline import Mixture, Plan, Source, Task, plan

SOURCES = tuple(Source(name, data=[]) for name in ("photos", "letters"))
POOL = (
    "[IMAGE:image] what does the image describe? -> [TEXT:label,closed_set]",
    "[IMAGE:image] [TEXT:question] -> [TEXT:answer,closed_set]",
    "[IMAGE:image,size=32] [IMAGE:other] -> [TEXT:label]",
    "[TEXT:question] in short: -> [TEXT:answer,max_length=5]",
    "[TEXT:question,uncased] -> [TEXT:label]",
    "tell me -> [TEXT:answer]",
    "([TEXT:names] and )* -> [TEXT:label], [TEXT:answer]",
    "[IMAGE:image] -> ([TEXT:names], )*",
)
CLOSED = ("label", "answer")
PROMPTS = st.text(st.sampled_from("abc ?!,éß🧵"), max_size=12)

few = settings(max_examples=15)
tasks = st.builds(
    Task,
    st.sampled_from(["a", "b", "c", "d", "e"]),
    st.sampled_from(POOL),
    st.sampled_from(SOURCES),
    holdout=st.sampled_from([0, 0.1]),
    key=st.just("id"),
    where=st.sampled_from([(), ("id > 3",), ("is_clean", "id > 3")]),
)
mixtures = st.lists(tasks, min_size=1, max_size=4, unique_by=lambda task: task.name)


def pin(names: Iterable[str], suffix: str = "") -> dict[str, Pinned]:
    """Return the artifacts of tasks ``names``, which are called with ``suffix`` behind that."""
    pinned = {"bpe-main": Pinned(kind="bpe", digest="b" * 32)}
    for name in names:
        for slot in CLOSED:
            digest = f"{name}{slot}".encode().hex().ljust(32, "0")
            pinned[f"closed-set-{name}{suffix}.{slot}"] = Pinned(kind="closed_set", digest=digest)
    return pinned


PINNED = pin("abcde")


def columns(planned: Plan) -> set[tuple[str, str]]:
    """Return the source and key of every stored column."""
    return {(value.node.rows, value.column_id) for value in planned.cut.stored}


def of_columns(planned: Plan) -> dict[Any, Node]:
    """Return the nodes that run offline."""
    stages = planned.cut.stages
    return {node.id: node for node in planned.graph if stages[node.id] is Stage.OFFLINE}


@few
@given(mixtures, st.sampled_from([{}, PINNED]))
def test_every_plan_is_the_graph_that_its_text_says(
    mixture: list[Task], pinned: Mapping[str, Pinned]
) -> None:
    planned = plan(mixture, pinned=pinned)
    planned.graph.verify(whole_catalogue())
    assert Graph.parse(str(planned.graph), whole_catalogue()) == planned.graph


@few
@given(mixtures, st.randoms(use_true_random=False), st.sampled_from([{}, PINNED]))
def test_the_order_of_tasks_is_in_nothing(
    mixture: list[Task], random: Any, pinned: Mapping[str, Pinned]
) -> None:
    turned = random.sample(mixture, len(mixture))
    one, other = plan(mixture, pinned=pinned), plan(turned, pinned=pinned)
    assert one.graph == other.graph
    assert one.cut.stages == other.cut.stages
    assert one.cut.stored.keys() == other.cut.stored.keys()
    assert dict(one.fits) == dict(other.fits)


@few
@given(mixtures, tasks)
def test_adding_a_task_changes_no_key_and_no_address_of_the_others(
    mixture: list[Task], added: Task
) -> None:
    old = plan(mixture, pinned=PINNED)
    new = plan([*mixture, replace(added, name="new")], pinned=PINNED | pin(["new"]))
    assert columns(old) <= columns(new)
    after = of_columns(new)
    for node_id, node in of_columns(old).items():
        assert node.note.addresses <= after[node_id].note.addresses
        assert node.note.sites <= after[node_id].note.sites
        assert replace(node, note=after[node_id].note) == after[node_id]
    scopes = [{node.scope for node in one.graph if node.scope} for one in (old, new)]
    assert scopes[0] <= scopes[1]


@few
@given(mixtures, PROMPTS, st.integers(1, 3), st.floats(0.1, 9))
def test_names_prompts_spacing_and_weights_are_in_no_column(
    mixture: list[Task], prompt: str, spaces: int, weight: float
) -> None:
    old = plan(mixture, pinned=PINNED)
    edited = [
        replace(
            task,
            instruction=f"{prompt}{' ' * spaces}{str(task.instruction).replace(' -> ', '  ->   ')}",
            weight=weight,
        )
        for task in mixture
    ]
    assert columns(plan(edited, pinned=PINNED)) == columns(old)
    renamed = [replace(task, name=f"{task.name}-2") for task in mixture]
    assert columns(plan(renamed, pinned=pin("abcde", "-2"))) == columns(old)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param({"holdout": 0}, {"holdout": 0.0}, id="0 and 0.0"),
        pytest.param({"where": "id > 3"}, {"where": ["id >  3"]}, id="spacing of a filter"),
        pytest.param(
            {"where": ["id > 3", "is_clean"]},
            {"where": ["is_clean", "id > 3"]},
            id="order of filters",
        ),
    ],
)
def test_what_means_the_same_is_the_same_column(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    one, other = (
        plan(Task("a", POOL[0], SOURCES[0], key="id", **more), pinned=PINNED) for more in (old, new)
    )
    assert columns(one) == columns(other)


def test_a_closed_set_is_learned_from_the_rows_of_its_own_source() -> None:
    """Two tasks ask for equal work over two sources; each has the answers of its own."""
    both = [Task(name, POOL[0], source) for name, source in zip("ab", SOURCES, strict=True)]
    planned = plan(both)
    fits = {name: planned.graph.nodes[value.node] for name, value in planned.fits.items()}
    rows = {name: {value.node.rows for value in fit.inputs.values()} for name, fit in fits.items()}
    assert rows == {
        "bpe-main": {"photos", "letters", ""},
        "closed-set-a.label": {"photos"},
        "closed-set-b.label": {"letters"},
    }


def test_columns_of_a_plan_are_those_of_any_other_process(tmp_path: Path) -> None:
    script = tmp_path / "keys.py"
    script.write_text(
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pipeline.test_identity import describe; print(json.dumps(describe()))"
    )
    command = [sys.executable, str(script), str(Path(__file__).parents[1])]
    env = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == describe()


def describe() -> list[str]:
    """Return the keys of all nodes of a mixture, fits and program included."""
    both: Sequence[Task] = [
        Task("a", POOL[0], SOURCES[0], holdout=0.1, key="id"),
        Task("b", POOL[1], SOURCES[1], where="id > 3"),
    ]
    mixture = Mixture(both, slots={"IMAGE": {"size": 32}})
    return sorted(map(str, plan(mixture).graph.nodes))


def test_the_keys_of_the_demos_columns_are_frozen() -> None:
    """They change when an op's version does, and then its columns are built anew; never by accident."""
    planned = plan(Task("a", POOL[1], SOURCES[0], holdout=0.1, key="id"), pinned=PINNED)
    found = {planned.graph.nodes[v.node].address: v.column_id for v in planned.cut.stored}
    assert found == {
        "a.answer/encode": "6398ead7a1bd7e448bf8502bc9645cec",
        "a.image/resize": "3cebc72f325020d9313ad6d57444f93d",
        "a.question/encode": "8f8345381e8e02c30604189a852583a8",
        "a/split": "5f797fa68247058e91cfc0913d426a85",
    }
