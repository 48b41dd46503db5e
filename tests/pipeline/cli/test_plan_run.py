"""A run is planned from the command line, in figures and in words; hardware it does not know is refused."""

from __future__ import annotations

import re

import pytest

from taskloom.graph.render.quantity import write_bytes

from .conftest import Built, Project


def test_a_run_is_planned_once_its_store_is_built(project: Project, built: Built) -> None:
    refused = project.taskloom("plan-run", "project.yaml", "--kind", "h100", "--json")
    assert (refused.code, refused.json["error"][0]["code"]) == (1, "T0511")
    done = built.project.taskloom(
        "plan-run",
        "project.yaml",
        "--kind",
        "h100",
        "--gpus",
        "2",
        "--precision",
        "bfloat16",
        "--json",
    )
    assert done.code == 0, done.err
    planned = done.json
    assert (planned["ranks"], planned["packs_per_step"], planned["precision"]) == (2, 2, "bfloat16")
    assert sum(planned["parameters"].values()) * 4 == planned["memory"]["parameters"]
    assert 0 < planned["flops"]["useful"] < planned["flops"]["executed"]
    assert planned["steps_per_epoch"].keys() == {"digits", "parity"}


def test_a_plan_is_told_in_words(built: Built) -> None:
    done = built.project.taskloom("plan-run", "project.yaml", "--kind", "a100-40", "--nodes", "2")
    assert done.code == 0, done.err
    for words in (
        "planned for 2 x NVIDIA A100",
        "memory of a rank",
        "tokens/s",
        "first bottleneck: ",
    ):
        assert words in done.out


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_plan_tells_what_a_rank_wants_of_its_loader_and_sends_to_others(
    built: Built, nodes: int
) -> None:
    words = ("plan-run", "project.yaml", "--kind", "a100-40", "--nodes", str(nodes))
    planned = built.project.taskloom(*words, "--json").json
    told = built.project.taskloom(*words).out
    step, pack_bytes = planned["step"], planned["loader"]["pack_bytes"]
    # The loader comes to a step's time only where it is slower than the rest.
    wanted = planned["packs_per_step"] / nodes / (step["total"] - step["loader"])
    line = re.escape(
        f"a rank wants {wanted:,.1f} packs/s of its loader, {write_bytes(wanted * pack_bytes)}/s; "
        "a thread of this machine fills "
    )
    (filled,) = re.findall(rf"^{line}([\d,]+\.\d)$", told, re.MULTILINE)
    assert float(filled.replace(",", "")) > 1
    sent = re.findall(r"^a rank sends (.*) a step, at .* \w+/s one way$", told, re.MULTILINE)
    learned = sum(planned["parameters"].values()) * 4
    # Two ranks that add up gradients each pass on half of them, twice.
    assert sent == ([write_bytes(learned)] if nodes == 2 else [])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kind", "h10"], "error[T0830]: no hardware is known"),
        (["--kind", "h100", "--sharding", "half"], "error[T0806]: --sharding is none or full"),
        (["--kind", "h100", "--precision", "half"], "error[T0806]: --precision is float32"),
    ],
)
def test_a_plan_refuses_what_it_does_not_know(
    built: Built, arguments: list[str], told: str
) -> None:
    done = built.project.taskloom("plan-run", "project.yaml", *arguments)
    assert done.code == 1
    assert told in done.err
