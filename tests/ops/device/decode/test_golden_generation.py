"""What OFASys generates from padded batches we write, id by id, with its score of every id."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from taskloom.graph.vocabulary import BOS, EOS, PAD, UNK
from taskloom.ops.device.automaton import build_automaton
from taskloom.ops.device.decode.relative_stack import RelativeStack
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.step import Sources
from taskloom.ops.device.decode.task import Task
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.decode.written import Written
from taskloom.ops.device.language import (
    FINISHED,
    Diagram,
    Free,
    OneOf,
    State,
    Way,
    draw_languages,
)

from ..relative.golden import FOLDER, Case

SLOW = {"caption_base"}
RUNS = [
    pytest.param(
        path.stem,
        run,
        id=f"{path.stem}-{run}",
        marks=[pytest.mark.slow] if path.stem in SLOW else [],
    )
    for path in sorted((FOLDER / "generated").glob("*.json"))
    for run in json.loads(path.read_text())
]
RANGES = {"grounding_box_tiny": (1225, 2225), "imagegen_vqgan_tiny": (1212, 1468)}
ANSWERS = ((1212,), (1207,), (117,), (1207, 45))


def allow(name: str, num_ids: int) -> Diagram:
    """Return what OFASys lets the case write; where it names a range, specials are allowed besides."""
    if name == "text_closedset_tiny":
        return draw_languages([(OneOf(sequences=ANSWERS),)], num_ids=num_ids)
    if name not in RANGES:
        return draw_languages([(Free(first=0, stop=num_ids),)], num_ids=num_ids)
    edges = {EOS: Way(FINISHED), **{id_: Way(1) for id_ in (BOS, PAD, UNK)}}
    first, stop = RANGES[name]
    return Diagram((State({PAD: Way(FINISHED)}), State(edges, first, stop, Way(1))), (1,), 0)


def as_search(args: dict[str, Any]) -> Search:
    is_normalized = args.get("normalize_scores", False)
    return Search(
        beams=args["beam"],
        n_best=args["beam"],
        length_penalty=args.get("lenpen", 1.0) if is_normalized else 0.0,
        no_repeat_ngram=args.get("no_repeat_ngram_size", 0),
        min_length=args.get("min_len", 1),
        temperature=args.get("temperature", 1.0),
    )


def generate(name: str, args: dict[str, Any], given: torch.Tensor | None) -> Written:
    case = Case(name)
    model: Any = case.build()
    source, memory, starts = case.read_source(model)
    keys = torch.stack((starts[:-1], starts[1:]))
    form = "code" if case.target == "IMAGE" else "text"
    stack = RelativeStack(model["decoder"], model["target_tokens"], model["vocabulary"], form)
    automaton = build_automaton(allow(name, len(stack.weight_VC)))
    task = Task(
        stack=stack,
        automaton=automaton,
        sources=Sources(memory, keys, int(keys.diff(dim=0).max()), source["positions"]),
        roots_B=torch.tensor(automaton.roots * keys.shape[1]),
        max_length=args["max_len"] + 1,
        search=as_search(args),
        given_BP=given,
    )
    return write(task)


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_ids_and_the_score_of_each_are_those_of_ofasys(name: str, run: str) -> None:
    told = json.loads((FOLDER / "generated" / f"{name}.json").read_text())[run]
    given = None
    starts = [0] * len(told["hyps"])
    if name == "text_closedset_tiny":
        given = torch.full((3, 16), PAD)
        for row, (hyp, *_) in enumerate(told["hyps"]):
            starts[row] = len(hyp["tokens"]) - 2
            given[row, : starts[row]] = torch.tensor(hyp["tokens"][:-2])
    written = generate(name, told["args"], given)
    for document, hyps in enumerate(told["hyps"]):
        for place, hyp in enumerate(hyps):
            ids, start = hyp["tokens"], starts[document]
            assert written.ids_BNL[document, place, : len(ids)].tolist() == ids
            scores = written.id_log_probs_BNL[document, place, start : len(ids)].tolist()
            assert scores == pytest.approx(hyp["positional_scores"][start:], abs=1e-4)
            # What is given counts there and not here, and is the same for all targets of a document.
            given_score = sum(hyp["positional_scores"][:start])
            score = float(written.scores_BN[document, place])
            assert score + given_score == pytest.approx(hyp["score"], abs=1e-4)
    assert written.is_finished_BN.all()
