"""Ids and frames in any order are those of one pass over the whole document, alone or in any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from taskloom.graph.errors import PlanError
from taskloom.graph.vocabulary import BOS, EOS, PAD
from taskloom.ops.device.automaton import DecodeAutomaton, build_automaton
from taskloom.ops.device.decode.denoise import Known
from taskloom.ops.device.decode.sampler import Sampler
from taskloom.ops.device.decode.search import Search
from taskloom.ops.device.decode.task import Task
from taskloom.ops.device.decode.wanted import Wanted
from taskloom.ops.device.decode.write import write
from taskloom.ops.device.decode.write_slots import WrittenSlots, write_slots
from taskloom.ops.device.language import (
    FINISHED,
    Continuous,
    Forced,
    Free,
    Language,
    OneOf,
    Some,
    draw_languages,
)

from ..relative.golden import Case
from .slots import NUM_NUMBERS, Model, Run

MAX_LENGTH = 7
MOTION, SOUND = Continuous(slot="motion", most=5), Continuous(slot="sound", most=4)
LANGUAGES: list[Language] = [
    (MOTION,),
    (SOUND,),
    (Forced((20, 21)), MOTION),
    (Some(first=4, stop=100, count=2), MOTION, Forced((30,)), Some(first=4, stop=100, count=2)),
    (SOUND, Continuous(slot="motion", most=3), Free(first=4, stop=100)),
    (Free(first=4, stop=100), Forced((30,)), SOUND),
    (OneOf(sequences=((5,), (6, 7))), MOTION, SOUND, OneOf(sequences=((8, 9), (10,)))),
    (OneOf(sequences=((5,), (6, 7))),),
]
KEYS = [(0, 5), (5, 9), (9, 9), (2, 14), (0, 14), (7, 8), (1, 4), (3, 9)]
"""A source for each language; one is empty."""

CLOSE, EXACT = 1e-5, 1e-9


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Case("motion_diffusion_tiny"))


@pytest.fixture(scope="module")
def exact_model() -> Model:
    """The same in double precision, where no choice hangs on rounding."""
    return Model(Case("motion_diffusion_tiny"), torch.float64)


@pytest.fixture(scope="module")
def automaton(model: Model) -> DecodeAutomaton:
    num_ids = len(model.stack.weight_VC)
    return build_automaton(draw_languages(LANGUAGES, num_ids=num_ids))


def make_task(model: Model, automaton: DecodeAutomaton, rows: Sequence[int], **more: Any) -> Task:
    """Return a task for documents of some of the languages; -1 is a row that holds none."""
    roots = [automaton.roots[row] if row >= 0 else FINISHED for row in rows]
    settings_: dict[str, Any] = {
        "max_length": MAX_LENGTH,
        "keys_B": torch.tensor(rows) + 40,
        **more,
    }
    return Task(
        stack=model.stack,
        automaton=automaton,
        sources=model.sources([KEYS[row] if row >= 0 else (0, 0) for row in rows]),
        roots_B=torch.tensor(roots),
        **settings_,
    )


def ids_of(written: WrittenSlots, row: int) -> list[int]:
    ids = written.ids.ids_BNL[row, 0].tolist()
    return ids[: ids.index(PAD)] if PAD in ids else ids


def frames_of(written: WrittenSlots, slot: str, row: int) -> Tensor:
    frames, counts = written.frames[slot]
    return frames[row, : int(counts[row])]


@pytest.mark.parametrize("number", range(len(LANGUAGES)))
def test_what_is_written_is_what_passes_over_the_whole_document_give(
    exact_model: Model, automaton: DecodeAutomaton, number: int
) -> None:
    search = Search(seed=3, sample=True, top_k=9)
    rows = [*range(len(LANGUAGES))]
    written = write_slots(
        make_task(exact_model, automaton, rows, search=search), exact_model.samplers()
    )
    sources = exact_model.sources([KEYS[number]])

    def read(runs: Sequence[Run]) -> Tensor:
        return exact_model.states(sources, runs)

    ids, log_probs = ids_of(written, number), written.ids.id_log_probs_BNL[number, 0]
    assert ids[-1] == EOS or len(ids) == MAX_LENGTH
    before: list[Run] = []
    run: list[int] = [] if LANGUAGES[number][0] in (MOTION, SOUND) else [BOS]
    state = torch.tensor(automaton.roots[number : number + 1])
    place = 0
    while place < len(ids):
        kind = int(automaton.frames_S[state])
        runs = [*before, exact_model.ids(run)] if run else before
        if kind >= 0:
            step = automaton.frames[kind]
            found = frames_of(written, step.slot, number)
            if step.slot == "motion":
                expected = exact_model.make_motion(runs, read, step.most, number + 40, seed=3)
            else:
                expected = exact_model.make_sound(runs, read, step.most)
            torch.testing.assert_close(found, expected, atol=EXACT, rtol=0)
            entered = (
                exact_model.motion(found) if step.slot == "motion" else exact_model.sound(found)
            )
            before, run = [*runs, entered], []
            state = automaton.after_frames(state)
            continue
        hidden = read(runs)[-1:]
        is_allowed = automaton.is_allowed(state, len(exact_model.stack.weight_VC))[0]
        scores = exact_model.stack.score(hidden)[0].masked_fill(~is_allowed, -torch.inf)
        expected_log_prob = float(scores.log_softmax(0)[ids[place]])
        assert float(log_probs[place]) == pytest.approx(expected_log_prob, abs=CLOSE)
        run.append(ids[place])
        state = automaton.advance(state, torch.tensor([ids[place]]))
        place += 1
    assert written.ids.is_finished_BN[number, 0] == (state == FINISHED)


def test_every_slot_that_the_language_has_is_written_and_no_other(
    model: Model, automaton: DecodeAutomaton
) -> None:
    rows = [0, 1, 2, 3, 4, 6, 7, -1]
    written = write_slots(make_task(model, automaton, rows), model.samplers())
    motion, sound = written.frames["motion"], written.frames["sound"]
    assert motion.counts_R.tolist() == [5, 0, 5, 5, 3, 5, 0, 0]
    has_sound = [False, True, False, False, True, True, False, False]
    assert (sound.counts_R > 0).tolist() == has_sound
    assert bool((sound.counts_R <= 4).all())
    for frames, counts in (motion, sound):
        is_frame = torch.arange(frames.shape[1]) < counts[:, None]
        assert bool((frames[~is_frame] == 0).all())
        assert bool((frames[is_frame] != 0).any(-1).all())
    assert ids_of(written, 0) == [EOS]
    assert ids_of(written, 2) == [20, 21, EOS]
    assert ids_of(written, 3)[2] == 30
    assert ids_of(written, 7) == []
    assert written.ids.is_finished_BN[:, 0].tolist() == [True] * 8


def test_some_sounds_end_by_themselves_and_some_where_there_is_no_more_room(
    model: Model, automaton: DecodeAutomaton
) -> None:
    task = make_task(model, automaton, [1])
    counts: set[int] = set()
    for bias in (-9.0, 0.0, 9.0):
        with torch.no_grad():
            model.parts["sound"].stop.bias.fill_(bias)
        counts |= {*write_slots(task, model.samplers()).frames["sound"].counts_R.tolist()}
    with torch.no_grad():
        model.parts["sound"].stop.bias.zero_()
    assert {1, 4} <= counts


@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.integers(-1, len(LANGUAGES) - 1), min_size=2, max_size=8),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_a_document_alone_is_written_as_in_any_batch(
    exact_model: Model, automaton: DecodeAutomaton, rows: list[int], seed: int, data: st.DataObject
) -> None:
    counts = {
        slot: data.draw(st.lists(st.integers(1, most), min_size=len(rows), max_size=len(rows)))
        for slot, most in (("motion", 5), ("sound", 4))
    }
    search = Search(seed=seed, sample=data.draw(st.booleans()))
    samplers = exact_model.samplers()
    check_alone(exact_model, automaton, rows, samplers, search, counts, close=EXACT)


def test_in_single_precision_a_document_alone_is_as_in_a_batch_within_1e_5(
    model: Model, automaton: DecodeAutomaton
) -> None:
    # Rotations are left as predicted: settling multiplies rounding where two vectors nearly coincide.
    samplers = model.samplers(has_settle=False)
    rows = [*range(len(LANGUAGES))]
    check_alone(model, automaton, rows, samplers, Search(seed=1, sample=True), {}, close=CLOSE)


def check_alone(
    model: Model,
    automaton: DecodeAutomaton,
    rows: Sequence[int],
    samplers: Mapping[str, Sampler],
    search: Search,
    counts: Mapping[str, Sequence[int]],
    *,
    close: float,
) -> None:
    """Check that each document of a batch is written as it is alone, frames within ``close``."""

    def write_some(places: slice) -> WrittenSlots:
        task = make_task(model, automaton, rows[places], search=search)
        wanted = {slot: Wanted(torch.tensor(each[places])) for slot, each in counts.items()}
        return write_slots(task, samplers, wanted=wanted)

    together = write_some(slice(None))
    for row in range(len(rows)):
        alone = write_some(slice(row, row + 1))
        assert ids_of(alone, 0) == ids_of(together, row)
        for name in ("id_log_probs_BNL", "scores_BN"):
            own, shared = getattr(alone.ids, name)[0], getattr(together.ids, name)[row]
            torch.testing.assert_close(own, shared, atol=CLOSE, rtol=0)
        for slot in ("motion", "sound"):
            own, shared = frames_of(alone, slot, 0), frames_of(together, slot, row)
            torch.testing.assert_close(own, shared, atol=close, rtol=0)


def test_nothing_of_another_document_reaches_a_frame(
    exact_model: Model, automaton: DecodeAutomaton
) -> None:
    rows = [3, 4, 6, 0]
    task = make_task(exact_model, automaton, rows)
    before = write_slots(task, exact_model.samplers())
    # The last document's source alone is another.
    memory, keys, _, positions = task.sources
    assert positions is not None
    keys = keys.clone()
    start, stop = keys[:, -1].tolist()
    keys[:, -1] += len(memory) - start
    changed = task.sources._replace(
        memory_MC=torch.cat((memory, memory[start:stop].flip(0))),
        keys_2B=keys,
        positions_MC=torch.cat((positions, positions[start:stop])),
    )
    task = replace(task, sources=changed)
    after = write_slots(task, exact_model.samplers())
    for row in range(3):
        assert ids_of(before, row) == ids_of(after, row)
        for slot in ("motion", "sound"):
            own, shared = frames_of(before, slot, row), frames_of(after, slot, row)
            torch.testing.assert_close(own, shared, atol=EXACT, rtol=0)
    assert (frames_of(before, "motion", 3) - frames_of(after, "motion", 3)).abs().max() > 1e-3


@pytest.mark.parametrize("search", [Search(), Search(sample=True, seed=5), Search(min_length=3)])
def test_without_frames_it_writes_what_write_does(model: Model, search: Search) -> None:
    languages: list[Language] = [(OneOf(sequences=((5,), (6, 7))),), (Free(first=4, stop=90),)]
    num_ids = len(model.stack.weight_VC)
    automaton = build_automaton(draw_languages(languages, num_ids=num_ids))
    given_BP = torch.tensor([[17, 18], [19, PAD], [PAD, PAD]])
    task = make_task(model, automaton, [0, 1, -1], search=search, given_BP=given_BP, prefix=(6,))
    expected = write(task)
    found = write_slots(task, {}).ids
    assert torch.equal(found.ids_BNL, expected.ids_BNL)
    torch.testing.assert_close(tuple(found), tuple(expected), atol=CLOSE, rtol=0)


def test_guidance_leads_away_from_what_other_sources_say(
    model: Model, automaton: DecodeAutomaton
) -> None:
    rows = [0, 3]
    task = make_task(model, automaton, rows)
    free = model.sources([(0, 2), (0, 2)])
    plain = write_slots(task, model.samplers())
    same = write_slots(task, model.samplers(guidance=1.5), free=task.sources)
    led = write_slots(task, model.samplers(guidance=1.5), free=free)
    # Where both readings are one, there is nothing to lead away from.
    for row in range(2):
        expected = frames_of(plain, "motion", row)
        torch.testing.assert_close(frames_of(same, "motion", row), expected, atol=1e-4, rtol=0)
        assert (frames_of(led, "motion", row) - expected).abs().max() > 1e-3


def test_known_frames_stay_and_the_others_see_them(
    model: Model, automaton: DecodeAutomaton
) -> None:
    task = make_task(model, automaton, [0, 2])
    frames = torch.randn(2, 5, NUM_NUMBERS, generator=torch.Generator().manual_seed(1))
    is_known = torch.tensor([[True, False, False, False, True], [False, True, False, True, True]])
    wanted = Wanted(torch.tensor([5, 4]), Known(frames, is_known))
    written = write_slots(task, model.samplers(), wanted={"motion": wanted}).frames["motion"]
    is_known[1, 4] = False  # behind the last of four
    assert torch.equal(written.frames_RTB[is_known], frames[is_known])
    assert written.counts_R.tolist() == [5, 4]
    assert bool((written.frames_RTB[1, 4] == 0).all())
    without = write_slots(task, model.samplers()).frames["motion"]
    assert (written.frames_RTB - without.frames_RTB)[~is_known].abs().max() > 1e-3


def test_a_document_without_room_for_the_end_stops_where_it_is(model: Model) -> None:
    languages: list[Language] = [(Free(first=4, stop=9), Forced((30,)), SOUND), (MOTION,)]
    num_ids = len(model.stack.weight_VC)
    automaton = build_automaton(draw_languages(languages, num_ids=num_ids))
    # The prefix is a text to its mark: after it is a slot of sound, and no room for the end.
    task = make_task(model, automaton, [0, 0, 1], max_length=3, prefix=(5, 6, 30))
    written = write_slots(task, model.samplers())
    assert ids_of(written, 0) == [5, 6, 30]
    assert written.ids.is_finished_BN[:, 0].tolist() == [False, False, True]
    assert written.frames["motion"].counts_R.tolist() == [0, 0, 5]
    assert written.frames["sound"].counts_R.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("search", "wanted", "message"),
    [
        (Search(beams=2), {}, "beams must be 1, and no_repeat_ngram 0"),
        (Search(no_repeat_ngram=2), {}, "beams must be 1, and no_repeat_ngram 0"),
        (Search(), {"motion": Wanted(torch.tensor([6]))}, '1 to 5 frames of "motion", got'),
        (Search(), {"motion": Wanted(torch.tensor([0]))}, '1 to 5 frames of "motion", got'),
        (Search(), {"smell": Wanted()}, 'no target has frames of "smell"'),
        (
            Search(),
            {"motion": Wanted(known=Known(torch.zeros(1, 2, 3), torch.zeros(1, 2)))},
            'known frames of "motion" have shapes',
        ),
        (
            Search(),
            {"sound": Wanted(known=Known(torch.zeros(1, 4, 12), torch.zeros(1, 4)))},
            'frames of "sound" are known, and are written one after another',
        ),
    ],
)
def test_what_cannot_be_written_is_refused(
    model: Model,
    automaton: DecodeAutomaton,
    search: Search,
    wanted: dict[str, Wanted],
    message: str,
) -> None:
    task = make_task(model, automaton, [0], search=search)
    with pytest.raises(PlanError, match=f"T0258.*{message}"):
        write_slots(task, model.samplers(), wanted=wanted)


def test_samplers_and_sources_that_are_missing_are_told(
    model: Model, automaton: DecodeAutomaton
) -> None:
    task = make_task(model, automaton, [0])
    with pytest.raises(PlanError, match=r'T0258.*nothing writes the frames of "sound"'):
        write_slots(task, {"motion": model.samplers()["motion"]})
    with pytest.raises(PlanError, match=r'T0258.*guidance of "motion" needs other sources'):
        write_slots(task, model.samplers(guidance=1.0))
    with pytest.raises(PlanError, match=r"T0258.*ids alone are written here"):
        write(task)


def test_more_ids_than_the_model_has_positions_are_refused(
    model: Model, automaton: DecodeAutomaton
) -> None:
    start, stop = model.stack.tokens.spans["text"]
    task = make_task(model, automaton, [2], max_length=stop - start + 1)
    with pytest.raises(PlanError, match=r"T0232.*were asked for, the model has \d+ positions"):
        write_slots(task, model.samplers())


def test_more_frames_than_the_model_has_positions_are_refused(model: Model) -> None:
    num_ids = len(model.stack.weight_VC)
    for slot, most in (("motion", 257), ("sound", 256)):
        language = (Continuous(slot=slot, most=most),)
        automaton = build_automaton(draw_languages([language], num_ids=num_ids))
        task = make_task(model, automaton, [0])
        with pytest.raises(PlanError, match=r"T0232.*may have 257 frames, the model has 256"):
            write_slots(task, model.samplers())
