"""Writing token by token is the decoder's forward pass, one document at a time or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import BOS, EOS, PAD
from taskloom.ops.device.automaton import Choice, DecodeAutomaton, build_automaton
from taskloom.ops.device.generation import Generated, generate, write_token
from taskloom.ops.device.language import (
    FINISHED,
    Forced,
    Free,
    Language,
    OneOf,
    draw_languages,
)

NUM_IDS, MAX_LENGTH, LONGEST_SOURCE = 40, 8, 16
ANSWERS = OneOf(sequences=((5,), (5, 6), (7, 8, 9), (30,), (31, 32)))
LANGUAGES: list[Language] = [
    (ANSWERS,),
    (Forced((20, 21)), Free(first=4, stop=40)),
    (Free(first=4, stop=12),),
]


@pytest.fixture
def automaton() -> DecodeAutomaton:
    """One automaton for three tasks."""
    return build_automaton(draw_languages(LANGUAGES, num_ids=NUM_IDS))


Batch: TypeAlias = tuple[Tensor, list[tuple[int, int]], list[int], Generated]


def write(
    program: Any,
    automaton: DecodeAutomaton,
    memory: Tensor,
    keys: list[tuple[int, int]],
    roots: list[int],
) -> Generated:
    return generate(
        program.decoder,
        program.table,
        automaton,
        memory_MC=memory,
        source_keys_2B=torch.tensor(keys).T,
        roots_B=torch.tensor(roots),
        longest_source=LONGEST_SOURCE,
        max_length=MAX_LENGTH,
    )


def ranges(documents: list[Any], starts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [
        (start, start + len(document.source))
        for document, (start, _) in zip(documents, starts, strict=True)
    ]


@pytest.fixture
def written(
    program: Any, automaton: DecodeAutomaton, documents: list[Any], pack: Callable[..., Any]
) -> Batch:
    """Memory and key ranges of documents, roots of different tasks, and what was written, one row unused."""
    together, starts = pack(documents)
    memory = program.read(together).detach()
    keys = [*ranges(documents, starts), (0, 0)]
    closed, forced, free = automaton.roots
    roots = [closed, forced, free, closed, FINISHED]
    return memory, keys, roots, write(program, automaton, memory, keys, roots)


def test_steps_equal_the_forward_pass(
    program: Any,
    automaton: DecodeAutomaton,
    written: Batch,
) -> None:
    memory, keys, roots, out = written
    for row, (lo, hi) in enumerate(keys[:-1]):
        ids = out.ids_BL[row].tolist()
        length = ids.index(EOS) + 1 if EOS in ids else MAX_LENGTH
        inputs = torch.tensor([BOS, *ids[: length - 1]], dtype=torch.int32)
        index = torch.arange(length, dtype=torch.int32)
        states = program.decode(
            program.decoder,
            hidden=program.embed(program.table, ids=inputs),
            positions=index,
            keys=torch.stack((index * 0, index + 1)),
            memory=memory,
            cross_keys=torch.tensor([[lo], [hi]]).expand(2, length),
        )
        total, state = 0.0, torch.tensor([roots[row]])
        for scores, id_ in zip(program.table.score(states), ids, strict=False):
            choice = automaton.choose(state, scores[None])
            assert choice.ids_B.tolist() == [id_]
            total += float(choice.log_probs_B.detach())
            state = choice.states_B
        assert float(out.log_probs_B[row]) == pytest.approx(total, abs=1e-5)


def test_a_document_alone_is_written_as_in_a_batch(
    program: Any,
    automaton: DecodeAutomaton,
    documents: list[Any],
    pack: Callable[..., Any],
    written: Batch,
) -> None:
    _, _, roots, together = written
    for row, document in enumerate(documents):
        alone_pack, starts = pack([document])
        memory = program.read(alone_pack)
        alone = write(program, automaton, memory, ranges([document], starts), [roots[row]])
        assert torch.equal(alone.ids_BL[0], together.ids_BL[row])
        torch.testing.assert_close(
            alone.log_probs_B[0], together.log_probs_B[row], atol=1e-5, rtol=0
        )


def test_finished_documents_and_unused_rows_go_on_with_padding(
    written: Batch,
) -> None:
    *_, out = written
    for ids, is_finished in zip(out.ids_BL.tolist(), out.is_finished_B.tolist(), strict=True):
        assert is_finished == (EOS in ids or ids == [PAD] * MAX_LENGTH)
        if EOS in ids:
            assert set(ids[ids.index(EOS) + 1 :]) <= {PAD}
    assert out.ids_BL[-1].tolist() == [PAD] * MAX_LENGTH
    assert float(out.log_probs_B[-1]) == 0


def test_each_document_writes_what_its_task_allows(
    written: Batch,
) -> None:
    *_, out = written
    closed, forced, free, *_ = out.ids_BL.tolist()
    assert closed[: closed.index(EOS)] in [list(ids) for ids in ANSWERS.sequences]
    assert forced[:2] == [20, 21]
    assert all(id_ in {*range(4, 12), EOS, PAD} for id_ in free)


def test_a_source_beyond_the_stated_length_gives_nan_rather_than_half_an_answer(
    program: Any, automaton: DecodeAutomaton
) -> None:
    memory = torch.randn(64, 16).double()
    out = write(program, automaton, memory, [(0, 17), (20, 36)], [automaton.roots[0]] * 2)
    assert out.log_probs_B.isnan().tolist() == [True, False]


def test_a_closed_set_needs_room_for_its_longest_member(program: Any) -> None:
    automaton = build_automaton(
        draw_languages([(OneOf(sequences=(tuple(range(4, 12)),)),)], num_ids=NUM_IDS)
    )
    with pytest.raises(PlanError, match="max_length is 8, and a closed set needs 9 ids"):
        write(program, automaton, torch.zeros(8, 16).double(), [(0, 1)], [automaton.roots[0]])


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_one_compiled_step_writes_every_token(
    program: Any, automaton: DecodeAutomaton, written: Batch
) -> None:
    memory, keys, roots, expected = written
    torch.compiler.reset()
    step = torch.compile(write_token, backend="aot_eager", fullgraph=True, dynamic=False)
    parts = (program.decoder, program.table, automaton)
    start = torch.full((len(roots),), BOS)
    last = Choice(start, torch.zeros(len(roots)), torch.tensor(roots))
    with torch.no_grad():
        cache = program.decoder.begin(
            memory, torch.tensor(keys).T, longest_source=LONGEST_SOURCE, max_length=MAX_LENGTH
        )
        ids: list[Tensor] = []
        for index in range(MAX_LENGTH):
            stance = "fail_on_recompile" if ids else "default"
            with torch.compiler.set_stance(stance):
                last = step(*parts, last, torch.tensor([index]), cache)
            ids.append(last.ids_B)
    assert torch.equal(torch.stack(ids, dim=1), expected.ids_BL)


def test_ids_that_are_given_are_no_choice_and_the_automaton_begins_after_them(
    program: Any, automaton: DecodeAutomaton
) -> None:
    memory = torch.randn(8, 16).double()
    given = torch.tensor([[17, 18], [19, PAD]])
    out = generate(
        program.decoder,
        program.table,
        automaton,
        memory_MC=memory,
        source_keys_2B=torch.tensor([[0, 4], [4, 8]]).T,
        roots_B=torch.tensor([automaton.roots[0]] * 2),
        longest_source=LONGEST_SOURCE,
        max_length=MAX_LENGTH,
        given_BP=given,
    )
    assert out.ids_BL[0, :2].tolist() == [17, 18]
    assert out.ids_BL[1, 0] == 19
    for ids, start in zip(out.ids_BL.tolist(), (2, 1), strict=True):
        assert ids[start : ids.index(EOS)] in [list(each) for each in ANSWERS.sequences]
    assert (out.log_probs_B < 0).all()
    assert out.is_finished_B.all()
