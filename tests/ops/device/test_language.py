"""What is written is read back slot by slot, and free text ends where the text after it is complete."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import EOS, PAD
from taskloom.ops.device.language import (
    FINISHED,
    Continuous,
    Diagram,
    Forced,
    Free,
    Language,
    OneOf,
    Repeat,
    Said,
    Some,
    Step,
    draw_languages,
)

NUM_IDS = 12
TEXT = (4, 10)
COMMA, DASH = 10, 11
ids = st.integers(TEXT[0], TEXT[1] - 1)
texts = st.lists(ids, max_size=6).map(tuple)


def free(slot: str) -> Free:
    return Free(first=TEXT[0], stop=TEXT[1], slot=slot)


def draw(*steps: Step) -> Diagram:
    return draw_languages([steps], num_ids=NUM_IDS)


def accepts(diagram: Diagram, written: Sequence[int]) -> bool:
    """Say whether ``written`` and the end after it are allowed."""
    state = diagram.roots[0]
    for id_ in (*written, EOS):
        state = pass_frames(diagram, state)
        way = diagram.states[state].follow(id_)
        if way is None:
            return False
        state = way.state
    return state == FINISHED


def pass_frames(diagram: Diagram, state: int) -> int:
    while diagram.states[state].frames is not None:
        state = diagram.states[state].rest.state
    return state


def said(diagram: Diagram, written: Sequence[int]) -> dict[tuple[str, int | None], tuple[int, ...]]:
    return {(s.slot, s.item): s.ids for s in diagram.read(diagram.roots[0], [*written, EOS, PAD])}


@given(st.lists(texts, max_size=4), st.integers(1, 3))
def test_so_many_ids_end_by_themselves(written: list[tuple[int, ...]], count: int) -> None:
    some = Some(first=TEXT[0], stop=TEXT[1], count=count, slot="a")
    diagram = draw(Repeat((some,)), Forced((COMMA,)), some)
    ids_ = [id_ for each in written for id_ in each]
    whole = [*ids_, COMMA, *range(TEXT[0], TEXT[0] + count)]
    assert accepts(diagram, whole) == (len(ids_) % count == 0)
    assert not accepts(diagram, whole[:-1])
    if len(ids_) % count == 0:
        items = {("a", i): tuple(ids_[i * count :][:count]) for i in range(len(ids_) // count)}
        assert said(diagram, whole) == items | {("a", None): tuple(whole[-count:])}


def test_so_many_ids_bound_what_is_written() -> None:
    some = Some(first=4, stop=6, count=4, slot="a")
    assert draw(Forced((COMMA,)), some).longest == 1 + 4 + 1


@given(texts, texts)
def test_two_texts_with_a_mark_between_them_are_told_apart(
    left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    diagram = draw(free("a"), Forced((COMMA, DASH)), free("b"))
    written = (*left, COMMA, DASH, *right)
    assert accepts(diagram, written)
    wanted = {("a", None): left, ("b", None): right}
    assert said(diagram, written) == {key: value for key, value in wanted.items() if value}


@given(texts, st.lists(ids, min_size=1, max_size=4).map(tuple), texts)
def test_free_text_ends_where_the_text_after_it_first_is_complete(
    left: tuple[int, ...], mark: tuple[int, ...], right: tuple[int, ...]
) -> None:
    written = (*left, *mark, *right)
    place = next(i for i in range(len(written)) if written[i : i + len(mark)] == mark)
    diagram = draw(free("a"), Forced(mark), free("b"))
    assert accepts(diagram, written)
    found = said(diagram, written)
    assert found.get(("a", None), ()) == written[:place]
    assert found.get(("b", None), ()) == written[place + len(mark) :]


@given(st.lists(st.tuples(texts, st.sampled_from([(4,), (4, 5), (6, 7)])), max_size=4))
def test_items_of_a_group_are_told_apart(
    items: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    label = OneOf(sequences=((4,), (4, 5), (6, 7)), slot="label")
    diagram = draw(Repeat((free("text"), Forced((COMMA,)), label, Forced((DASH,)))))
    written = [id_ for text, label_ in items for id_ in (*text, COMMA, *label_, DASH)]
    assert accepts(diagram, written)
    wanted: dict[tuple[str, int | None], tuple[int, ...]] = {}
    for number, (text, label_) in enumerate(items):
        wanted |= {("text", number): text} if text else {}
        wanted["label", number] = label_
    assert said(diagram, written) == wanted


@given(st.lists(texts, min_size=1, max_size=5), texts)
def test_one_of_a_closed_set_and_nothing_else_is_accepted(
    sequences: list[tuple[int, ...]], other: tuple[int, ...]
) -> None:
    diagram = draw(OneOf(sequences=tuple(sequences), slot="a"))
    assert all(accepts(diagram, sequence) for sequence in sequences)
    assert accepts(diagram, other) == (other in sequences)
    assert diagram.longest == max(map(len, sequences)) + 1


@given(st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4), texts)
def test_text_may_follow_a_closed_set(
    sequences: list[tuple[int, ...]], tail: tuple[int, ...]
) -> None:
    # The longest answer that goes on is the one that was meant.
    head = max(sequences, key=len)
    assume(not any((*head, *tail)[: len(s)] == s for s in sequences if len(s) > len(head)))
    diagram = draw(OneOf(sequences=tuple(sequences), slot="a"), Forced((COMMA,)), free("b"))
    written = (*head, COMMA, *tail)
    assert accepts(diagram, written)
    assert said(diagram, written)["a", None] == head


def test_a_group_may_be_empty_and_what_follows_it_is_written() -> None:
    diagram = draw(Repeat((Forced((DASH,)), free("a"), Forced((COMMA,)))), free("b"))
    assert said(diagram, (5, 6)) == {("b", None): (5, 6)}
    assert said(diagram, (DASH, 4, COMMA, DASH, COMMA, 7)) == {("a", 0): (4,), ("b", None): (7,)}


@pytest.mark.parametrize(
    "language",
    [
        pytest.param((free("a"), free("b")), id="side by side"),
        pytest.param((Repeat((free("a"),)),), id="repeated with nothing between"),
        pytest.param((Repeat((free("a"), Forced((COMMA,)))), free("b")), id="after a group"),
        pytest.param((free("a"), OneOf(sequences=((), (4,))), free("b")), id="around an empty one"),
    ],
)
def test_text_of_which_nothing_tells_the_end_is_refused(language: Language) -> None:
    with pytest.raises(PlanError, match=r"T0253.*nothing tells where a text ends"):
        draw_languages([language], num_ids=NUM_IDS)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        pytest.param(OneOf(sequences=()), "language 1 is an empty closed set", id="empty set"),
        pytest.param(Free(first=6, stop=6), "empty range of ids, 6 to 6", id="empty range"),
        pytest.param(OneOf(sequences=((4,), (12,))), "has id 12, and the voc", id="outside"),
        pytest.param(Free(first=4, stop=13), "has id 12, and the vocabulary", id="range"),
        pytest.param(Repeat((Forced((12,)),)), "has id 12, and the vocabulary", id="in a group"),
    ],
)
def test_a_language_that_cannot_be_written_is_refused(
    step: Forced | Free | OneOf | Repeat, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        draw_languages([(Forced((4,)),), (step,)], num_ids=NUM_IDS)


def test_what_was_cut_short_is_read_as_far_as_it_goes() -> None:
    diagram = draw(free("a"), Forced((COMMA,)), free("b"))
    assert diagram.read(diagram.roots[0], [4, 5]) == [Said("a", None, (4, 5))]
    assert Said("said", 0, (4,)) != Said("said", None, (4,))


@given(
    st.lists(st.sampled_from(["frames", "forced", "answer", "text"]), min_size=1, max_size=6),
    st.data(),
)
def test_frames_stand_where_the_language_has_them_and_take_no_id(
    kinds: list[str], data: st.DataObject
) -> None:
    steps: list[Step] = []
    written: list[int] = []
    wanted: dict[tuple[str, int | None], tuple[int, ...]] = {}
    for number, kind in enumerate(kinds):
        name = f"{kind}{number}"
        if kind == "frames":
            steps.append(Continuous(slot=name, most=number + 1))
            wanted[name, None] = ()
        elif kind == "forced":
            steps.append(Forced((DASH,)))
            written.append(DASH)
        elif kind == "answer":
            steps.append(OneOf(sequences=((4, 5), (6,)), slot=name))
            wanted[name, None] = data.draw(st.sampled_from([(4, 5), (6,)]))
            written += wanted[name, None]
        else:
            steps += [free(name), Forced((COMMA,))]
            text = data.draw(texts)
            wanted |= {(name, None): text} if text else {}
            written += [*text, COMMA]
    diagram = draw(*steps)
    assert accepts(diagram, written)
    assert said(diagram, written) == wanted
    most = [step.most for step in steps if isinstance(step, Continuous)]
    assert (diagram.most_slots, diagram.most_frames) == (len(most), sum(most))
    for state in diagram.states:
        assert state.frames is None or not any(state.follow(id_) for id_ in range(NUM_IDS))


def test_frames_that_nothing_follows_yet_are_not_read() -> None:
    diagram = draw(Forced((DASH,)), Continuous(slot="a", most=2))
    assert diagram.read(diagram.roots[0], [DASH]) == []
    assert diagram.read(diagram.roots[0], [DASH, EOS]) == [Said("a", None, ())]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(free("b"), id="text"),
        pytest.param(OneOf(sequences=((4,), (4, 5))), id="an answer that may go on"),
        pytest.param(OneOf(sequences=((), (4,))), id="an empty answer"),
        pytest.param(Repeat((Forced((COMMA,)),)), id="a group"),
    ],
)
def test_frames_after_what_may_go_on_are_refused(before: Step) -> None:
    with pytest.raises(PlanError, match="T0253"):
        draw(before, Continuous(slot="a", most=2))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Repeat((Continuous(slot="a", most=2),)),), 'has the frames of "a" inside a group'),
        ((Continuous(slot="a", most=2),) * 2, 'has the frames of "a" twice'),
        ((Continuous(slot="a", most=0),), 'has at most 0 frames of "a", and must have room'),
    ],
)
def test_frames_that_cannot_be_written_are_refused(steps: Language, message: str) -> None:
    with pytest.raises(PlanError, match=f"T0257.*{message}"):
        draw(*steps)
