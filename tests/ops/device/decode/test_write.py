"""Writing token by token is the decoder's forward pass, one document at a time or many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import EOS, PAD
from taskloom.ops.device.automaton import DecodeAutomaton
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.step import open_cache, take_step
from taskloom.ops.device.decode.task import Task
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.decode.written import Written
from taskloom.ops.device.language import FINISHED, Forced, Free, Language, OneOf

from .writing import build, make_task, score_alone

MAX_LENGTH = 8
ANSWERS = OneOf(sequences=((5,), (5, 6), (7, 8, 9), (30,), (31, 32)))
LANGUAGES: list[Language] = [
    (ANSWERS,),
    (Forced((20, 21)), Free(first=4, stop=40)),
    (Free(first=4, stop=12),),
]
SEARCHES = [
    pytest.param(Search(), id="greedy"),
    pytest.param(Search(beams=3, n_best=3, length_penalty=1), id="beam"),
    pytest.param(Search(beams=4, n_best=4, groups=2, diversity=0.5), id="groups"),
    pytest.param(Search(beams=3, n_best=3, sample=True, top_k=5, seed=3), id="sample"),
]

# Compiling takes seconds where all ids are weighed: where time is short, the last two stand for all.
COMPILED = [
    *(pytest.param("closed", *each.values, id=f"closed-{each.id}") for each in SEARCHES),
    *(
        pytest.param("open", *each.values, id=f"open-{each.id}", marks=marks)
        for each, marks in zip(SEARCHES, [[pytest.mark.slow]] * 2 + [[]] * 2, strict=True)
    ),
]

Batch: TypeAlias = tuple[Tensor, list[tuple[int, int]], list[int]]


@pytest.fixture(params=["open", "closed"])
def automaton(request: pytest.FixtureRequest) -> DecodeAutomaton:
    """One automaton for three tasks; or for closed sets alone, which are weighed by their edges."""
    return build(LANGUAGES if request.param == "open" else [(ANSWERS,)] * 3)


@pytest.fixture
def batch(
    program: Any, automaton: DecodeAutomaton, documents: list[Any], pack: Callable[..., Any]
) -> Batch:
    """Memory and key ranges of documents, roots of different tasks, and one row unused."""
    together, starts = pack(documents)
    memory = program.read(together).detach()
    first, second, third = automaton.roots
    return memory, [*ranges(documents, starts), (0, 0)], [first, second, third, first, FINISHED]


def ranges(documents: list[Any], starts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [
        (start, start + len(document.source))
        for document, (start, _) in zip(documents, starts, strict=True)
    ]


def write_batch(
    program: Any, automaton: DecodeAutomaton, batch: Batch, search: Search, **more: Any
) -> Written:
    memory, keys, roots = batch
    return write(make_task(program, automaton, memory, keys, roots=roots, search=search, **more))


@pytest.mark.parametrize("search", SEARCHES)
def test_what_is_written_has_the_probability_that_the_forward_pass_gives_it(
    program: Any, automaton: DecodeAutomaton, batch: Batch, search: Search
) -> None:
    memory, keys, roots = batch
    out = write_batch(program, automaton, batch, search)
    for row, source in enumerate(keys[:-1]):
        for place in range(search.n_best):
            if out.scores_BN[row, place] == -torch.inf:
                continue
            ids = out.ids_BNL[row, place].tolist()
            ids = ids[: ids.index(EOS) + 1]
            expected = score_alone(program, automaton, memory, source, ids, roots[row])
            told = out.id_log_probs_BNL[row, place, : len(ids)].tolist()
            assert told == pytest.approx(expected, abs=1e-5)
            assert float(out.log_probs_BN[row, place]) == pytest.approx(sum(expected), abs=1e-5)
            score = sum(expected) / len(ids) ** search.length_penalty
            assert float(out.scores_BN[row, place]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_document_alone_is_written_as_in_a_batch(
    program: Any,
    automaton: DecodeAutomaton,
    documents: list[Any],
    pack: Callable[..., Any],
    batch: Batch,
    search: Search,
) -> None:
    _, _, roots = batch
    keys_B = torch.tensor([7, 1, 9, 3, 4])
    together = write_batch(program, automaton, batch, search, keys_B=keys_B)
    for row, document in enumerate(documents):
        alone_pack, starts = pack([document])
        memory = program.read(alone_pack).detach()
        alone_batch = (memory, ranges([document], starts), [roots[row]])
        alone = write_batch(program, automaton, alone_batch, search, keys_B=keys_B[row : row + 1])
        assert torch.equal(alone.ids_BNL[0], together.ids_BNL[row])
        torch.testing.assert_close(alone.scores_BN[0], together.scores_BN[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("search", SEARCHES)
def test_finished_documents_and_unused_rows_go_on_with_padding(
    program: Any, automaton: DecodeAutomaton, batch: Batch, search: Search
) -> None:
    out = write_batch(program, automaton, batch, search)
    for ids in out.ids_BNL[out.is_finished_BN][:-1].tolist():
        assert EOS in ids or ids == [PAD] * MAX_LENGTH
        if EOS in ids:
            assert set(ids[ids.index(EOS) + 1 :]) <= {PAD}
    assert out.is_finished_BN[:, 0].all()
    assert out.ids_BNL[-1, 0].tolist() == [PAD] * MAX_LENGTH
    assert float(out.log_probs_BN[-1, 0]) == 0


@pytest.mark.parametrize("search", SEARCHES)
def test_each_document_writes_what_its_task_allows(
    program: Any, batch: Batch, search: Search
) -> None:
    automaton = build(LANGUAGES)
    memory, keys, _ = batch
    roots = [automaton.roots[number] for number in (0, 1, 2, 0)]
    out = write_batch(program, automaton, (memory, keys[:-1], roots), search)
    is_real_BN = out.scores_BN > -torch.inf
    closed, forced, free, _ = (
        ids_NL[is_real_N].tolist()
        for ids_NL, is_real_N in zip(out.ids_BNL, is_real_BN, strict=True)
    )
    assert all(
        ids[: ids.index(EOS)] in [list(each) for each in ANSWERS.sequences] for ids in closed
    )
    assert all(ids[:2] == [20, 21] for ids in forced)
    assert all(id_ in {*range(4, 12), EOS, PAD} for ids in free for id_ in ids)


def test_a_source_beyond_the_stated_length_gives_nan_rather_than_half_an_answer(
    program: Any, automaton: DecodeAutomaton
) -> None:
    memory = torch.randn(64, 16).double()
    out = write(make_task(program, automaton, memory, [(0, 17), (20, 36)]))
    assert out.log_probs_BN[:, 0].isnan().tolist() == [True, False]
    assert set(out.ids_BNL[0, 0].tolist()) <= {5, 6, 7, 8, 9, 30, 31, 32, EOS, PAD}


def test_a_closed_set_needs_room_for_its_longest_member(program: Any) -> None:
    automaton = build([(OneOf(sequences=(tuple(range(4, 12)),)),)])
    with pytest.raises(PlanError, match="max_length is 8, and a closed set needs 9 ids"):
        make_task(program, automaton, torch.zeros(8, 16).double(), [(0, 1)])


@pytest.mark.parametrize("search", SEARCHES)
def test_ids_that_are_given_are_no_choice_and_the_automaton_begins_after_them(
    program: Any, automaton: DecodeAutomaton, search: Search
) -> None:
    memory = torch.randn(8, 16).double()
    given = torch.tensor([[17, 18], [19, PAD]])
    task = make_task(program, automaton, memory, [(0, 4), (4, 8)], given_BP=given, search=search)
    out = write(task)
    for row, start in enumerate((2, 1)):
        for place in range(search.n_best):
            ids = out.ids_BNL[row, place].tolist()
            assert ids[:start] == given[row, :start].tolist()
            assert ids[start : ids.index(EOS)] in [list(each) for each in ANSWERS.sequences]
            assert (out.id_log_probs_BNL[row, place, :start] == 0).all()
    assert (out.log_probs_BN < 0).all()
    assert out.is_finished_BN.all()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_one_compiled_step_takes_every_step_of_a_block_and_caches_stay_where_they_are(
    program: Any, automaton: DecodeAutomaton, batch: Batch
) -> None:
    memory, keys, roots = batch
    task: Task = make_task(program, automaton, memory, keys, roots=roots)
    ids_LR = torch.randint(4, 40, (MAX_LENGTH, 2 * len(keys)))
    torch.compiler.reset()
    compiled = torch.compile(take_step, backend="aot_eager", fullgraph=True, dynamic=False)
    caches = [
        open_cache(task.stack, task.sources, num_rows=2, max_length=MAX_LENGTH) for _ in range(2)
    ]
    addresses = [kept.data_ptr() for kept in (*caches[0].keys, *caches[0].values)]
    with torch.no_grad():
        for at in range(MAX_LENGTH):
            index = torch.tensor([at])
            with torch.compiler.set_stance("fail_on_recompile" if at else "default"):
                got = compiled(task.stack, ids_LR[at], index, caches[0], MAX_LENGTH)
            expected = take_step(task.stack, ids_LR[at], index, caches[1], MAX_LENGTH)
            torch.testing.assert_close(got, expected)
    assert addresses == [kept.data_ptr() for kept in (*caches[0].keys, *caches[0].values)]


@pytest.mark.parametrize(("automaton", "search"), COMPILED, indirect=["automaton"])
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_steps_are_few_programs_and_write_the_same(
    program: Any, automaton: DecodeAutomaton, batch: Batch, search: Search
) -> None:
    search = replace(search, no_repeat_ngram=2, min_length=2)
    given = torch.tensor([[17, 18], [19, PAD], *[[PAD, PAD]] * 3])
    more = {"given_BP": given, "prefix": (6,), "max_length": 12}
    expected = write_batch(program, automaton, batch, search, **more)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compile_ = cache(partial(torch.compile, backend=counter, fullgraph=True, dynamic=False))
    found = write_batch(program, automaton, batch, search, **more, compile=compile_)
    torch.testing.assert_close(tuple(found), tuple(expected))
    # A step; what is chosen while ids are given, targets are short, neither, and last; who follows whom.
    assert counter.frame_count <= (2 if automaton.is_closed else 6)
    memory, keys, roots = batch
    other = (memory.flip(0), keys[::-1], roots[::-1])
    with torch.compiler.set_stance("fail_on_recompile"):
        found = write_batch(program, automaton, other, search, **more, compile=compile_)
    expected = write_batch(program, automaton, other, search, **more)
    torch.testing.assert_close(tuple(found), tuple(expected))


def test_the_source_is_remembered_once_for_all_beams(
    program: Any, automaton: DecodeAutomaton, batch: Batch
) -> None:
    memory, keys, _ = batch
    task = make_task(program, automaton, memory, keys)
    cache = open_cache(task.stack, task.sources, num_rows=5, max_length=MAX_LENGTH)
    assert {len(kept) for kept in cache.keys} == {5 * len(keys)}
    assert {len(kept) for kept in cache.remembered.keys} == {len(keys)}
