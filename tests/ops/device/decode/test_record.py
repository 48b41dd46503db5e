"""A recorded search writes what it writes as it comes, batch after batch.

What a graph cannot record is looked for without a GPU as well: tensors without values refuse to tell one, and
copies from the host are seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from taskloom.graph.vocabulary import PAD
from taskloom.ops.device.decode.beam import search_beams
from taskloom.ops.device.decode.chain import write_chains
from taskloom.ops.device.decode.record import Recorder
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.task import BLOCK, Task
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.decode.written import Written
from taskloom.ops.device.language import FINISHED, Free, Language, OneOf

from .writing import build, make_task

MAX_LENGTH = 2 * BLOCK + 3
ANSWERS = OneOf(sequences=((5,), (5, 6), (7, 8, 9), (30,), (31, 32)))
LANGUAGES: dict[str, Language] = {"open": (Free(first=4, stop=40),), "closed": (ANSWERS,)}
SEARCHES = [
    pytest.param(Search(min_length=5), id="greedy"),
    pytest.param(Search(no_repeat_ngram=2, min_length=2 * BLOCK), id="runs"),
    pytest.param(Search(beams=3, n_best=3, length_penalty=1, min_length=3), id="beam"),
    pytest.param(
        Search(beams=4, n_best=4, groups=2, diversity=0.5, no_repeat_ngram=2), id="groups"
    ),
    pytest.param(Search(beams=3, n_best=3, sample=True, top_k=5, seed=3), id="sample"),
    pytest.param(Search(sample=True, top_p=0.9, temperature=0.7), id="nucleus"),
]


class NothingFromTheHost(TorchFunctionMode):
    """Refuses what takes values from the host's memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), f"{func} copies"
        out = func(*args, **(kwargs or {}))
        for value in (*args, *(kwargs or {}).values(), out):
            is_here = isinstance(value, Tensor) and value.device.type == "cpu"
            assert not is_here, f"{func} has a tensor on the host"
        return out


def draw_batch(
    program: Any, kind: str, search: Search, *, seed: int, device: str = "cpu", **more: Any
) -> Task:
    """Return a task of three documents, one row unused."""
    automaton = build([LANGUAGES[kind]])
    generator = torch.Generator().manual_seed(seed)
    memory = 3 * torch.randn(40, 16, generator=generator)
    (root,) = automaton.roots
    given = torch.tensor([[17, 18], [19, PAD], [PAD, PAD], [PAD, PAD]]).roll(seed, 0)
    task = make_task(
        program.float().to(device),
        automaton,
        memory,
        [(seed, 7), (8, 20), (0, 1), (0, 0)],
        roots=[root, root, root, FINISHED],
        max_length=MAX_LENGTH,
        search=search,
        given_BP=given,
        keys_B=torch.arange(4) + seed,
        prefix=(6,),
    )
    return move(replace(task, **more), device)


def move(task: Task, device: str) -> Task:
    sources = task.sources
    return replace(
        task,
        automaton=task.automaton.to(device),
        sources=sources._replace(
            memory_MC=sources.memory_MC.to(device), keys_2B=sources.keys_2B.to(device)
        ),
        roots_B=task.roots_B.to(device),
        given_BP=None if task.given_BP is None else task.given_BP.to(device),
        keys_B=None if task.keys_B is None else task.keys_B.to(device),
    )


def with_parts_of(task: Task, other: Task) -> Task:
    """Return ``other`` with the decoder and the automaton of ``task``, as one caller has them."""
    return replace(other, automaton=task.automaton, stack=task.stack)


@pytest.mark.parametrize("kind", LANGUAGES)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_takes_no_value_from_the_host_and_asks_for_none(
    program: Any, kind: str, search: Search
) -> None:
    task = replace(draw_batch(program, kind, search, seed=0, device="meta"), max_length=6)
    begin: Callable[..., Any] = write_chains if search.is_chain else search_beams
    with torch.no_grad(), NothingFromTheHost():
        *_, last = begin(task)
    assert last.at == 6
    assert last.is_done().device.type == "meta"


def test_what_is_looked_for_on_the_host_is_found() -> None:
    ids = torch.zeros(2, device="meta")
    with NothingFromTheHost():
        with pytest.raises(AssertionError, match="copies"):
            torch.tensor([1, 2], device="meta")
        with pytest.raises(AssertionError, match="on the host"):
            torch.zeros(2).to("meta")
        with pytest.raises(RuntimeError, match="meta"):
            ids.sum().item()


def differ(one: Written, other: Written) -> bool:
    return not all(map(torch.equal, one, other))


def assert_same(one: Written, other: Written) -> None:
    torch.testing.assert_close(tuple(one), tuple(other), atol=0, rtol=0, equal_nan=True)


@pytest.mark.device
@pytest.mark.parametrize("kind", LANGUAGES)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_recorded_search_writes_batch_after_batch_what_it_writes_as_it_comes(
    program: Any, kind: str, search: Search
) -> None:
    recorder = Recorder()
    first = draw_batch(program, kind, search, seed=0, device="cuda")
    batches = [first] + [
        with_parts_of(first, draw_batch(program, kind, search, seed=seed, device="cuda"))
        for seed in range(1, 5)
    ]
    expected = [write(batch) for batch in batches]
    found = [write(batch, recorder) for batch in batches]
    assert recorder.num_recordings == 1
    # What was returned first is still there after later batches: it is the caller's.
    for one, other in zip(expected, found, strict=True):
        assert_same(one, other)
    assert len({tuple(each.ids_BNL[0, 0].tolist()) for each in found}) > 1


@pytest.mark.device
def test_a_recorded_search_ends_early_and_goes_through_the_next_batch_to_its_end(
    program: Any,
) -> None:
    recorder, search = Recorder(), Search(min_length=2 * BLOCK)
    task = draw_batch(program, "open", search, seed=0, device="cuda")
    short = replace(task, roots_B=torch.full_like(task.roots_B, FINISHED))
    for batch in (task, task, short, task, short, short, task):
        assert_same(write(batch, recorder), write(batch))
    assert recorder.num_recordings == 1


@pytest.mark.device
def test_recordings_that_are_not_used_are_dropped_and_others_still_write(program: Any) -> None:
    recorder = Recorder(size=2)
    first, *others = (
        draw_batch(program, "open", Search(min_length=shortest), seed=0, device="cuda")
        for shortest in (0, 3, 9)
    )
    tasks = [first, *(with_parts_of(first, other) for other in others)]
    expected = [write(task) for task in tasks]
    for number in (0, 0, 1, 1, 0, 2, 2, 2, 0, 0, 1, 2):
        assert_same(expected[number], write(tasks[number], recorder))
        assert recorder.num_recordings <= 2


@pytest.mark.device
def test_parameters_that_learn_are_read_anew_by_a_recording(program: Any) -> None:
    recorder = Recorder()
    task = draw_batch(program, "closed", Search(), seed=0, device="cuda")
    before = [write(task, recorder) for _ in range(3)][-1]
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.mul_(-1.5)
    assert differ(before, write(task, recorder))
    assert_same(write(task), write(task, recorder))


@pytest.mark.device
@pytest.mark.filterwarnings("ignore")  # those of the compiler, which differ from version to version
@pytest.mark.parametrize("search", [SEARCHES[0], SEARCHES[3], SEARCHES[4]])
def test_recorded_and_compiled_it_writes_the_same_but_for_rounding(
    program: Any, search: Search
) -> None:
    recorder = Recorder()
    task = draw_batch(program, "open", search, seed=0, device="cuda")
    expected = write(task)
    torch.compiler.reset()
    compile_ = cache(partial(torch.compile, fullgraph=True, dynamic=False))
    compiled = replace(task, compile=compile_)
    for found in [write(compiled, recorder) for _ in range(3)]:
        assert torch.equal(found.ids_BNL[:3, 0], expected.ids_BNL[:3, 0])
        torch.testing.assert_close(found.scores_BN, expected.scores_BN, atol=1e-3, rtol=1e-3)
    assert recorder.num_recordings == 1
