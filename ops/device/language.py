"""Languages: what a target may look like, as states and what leads from one to the next.

A *language* is a row of steps: forced ids, ids of a range, any number or so many of them, one of a closed
set, steps that repeat, or a slot of frames, which are no ids.
The *diagram* of some languages has an edge for each id that a state allows, and at most one range of ids;
edges go before the range. What a document wrote is read back along the edges it took, so that what is
written and what is read cannot differ.

Free ids end where the forced ids that follow them are complete for the first time (Knuth, Morris and
Pratt); without any, with the target. So ids of one range never follow one another freely: nothing would
tell where the first ends.

A state of frames allows no id. It is left, to whatever follows, when what makes the frames is done; so
nothing else may be written where frames begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from ...graph.errors import PlanError, Problem
from ...graph.vocabulary import EOS, PAD

FINISHED: Final = 0
"""The state after the end, whose only way on is padding."""


@dataclass(frozen=True, slots=True)
class Forced:
    """Ids that the instruction says."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Any number of ids from ``first`` up to, not including, ``stop``."""

    first: int
    stop: int
    slot: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    """Exactly ``count`` ids from ``first`` up to, not including, ``stop``."""

    first: int
    stop: int
    count: int
    slot: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """One of some sequences of ids; the longest that goes on."""

    sequences: tuple[tuple[int, ...], ...]
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Steps that come any number of times."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuous:
    """At most ``most`` frames of numbers, which a sampler makes."""

    slot: str
    most: int


Step: TypeAlias = "Forced | Free | Some | OneOf | Repeat | Continuous"
Language: TypeAlias = tuple[Step, ...]


class Way(NamedTuple):
    """What an id leads to.

    Attributes:
        state: The next state.
        slot: Slot that the id belongs to; empty for ids that the instruction says.
        held: How many ids, this the last of them, may yet turn out to be said by the instruction.
        ends: Whether they have turned out to be.
        repeats: Whether the slot stands in a group.
        begins: Whether an item of a group begins with it.
    """

    state: int
    slot: str = ""
    held: int = 0
    ends: bool = False
    repeats: bool = False
    begins: bool = False


_END: Final = Way(FINISHED)


class Said(NamedTuple):
    """What one document wrote into one slot.

    Attributes:
        slot: Name of the slot.
        item: Number of the item, from 0, inside a group; None outside.
        ids: The ids; none of a slot of frames.
    """

    slot: str
    item: int | None
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class State:
    """What a state allows.

    Attributes:
        edges: What single ids lead to.
        first: First id of its range.
        stop: One past the last; equal to ``first`` where there is none.
        rest: What ids of the range lead to; in a state of frames, where it goes on after them.
        frames: What is written in place of ids; None where ids are.
    """

    edges: dict[int, Way] = field(default_factory=dict[int, Way])
    first: int = 0
    stop: int = 0
    rest: Way = _END
    frames: Continuous | None = None

    def follow(self, id_: int) -> Way | None:
        """Return what ``id_`` leads to, or nothing if it is not allowed."""
        if (way := self.edges.get(id_)) is not None:
            return way
        return self.rest if self.first <= id_ < self.stop else None


@dataclass(frozen=True, slots=True)
class Diagram:
    """The states of some languages.

    Attributes:
        states: All states; the first is `FINISHED`.
        roots: First state of each language.
        longest: Most ids that a language writes, the end included, whose steps bound it; 0 if there is none.
        most_slots: Most slots of frames of a language.
        most_frames: Most frames of a language.
    """

    states: tuple[State, ...]
    roots: tuple[int, ...]
    longest: int
    most_slots: int = 0
    most_frames: int = 0

    def read(self, root: int, ids: Sequence[int]) -> list[Said]:
        """Return what a document that began in ``root`` wrote into its slots, in order.

        A slot of frames is among them where an id follows it, be it the end.
        """
        said: dict[tuple[str, int | None], list[int]] = {}
        held: list[int] = []
        state, item = root, -1
        for id_ in ids:
            while (frames := self.states[state].frames) is not None:
                said[frames.slot, None] = []
                state = self.states[state].rest.state
            way = self.states[state].follow(id_)
            if way is None or id_ == EOS:
                break
            state = way.state
            item += way.begins
            if not way.slot:
                continue
            held.append(id_)
            written = held[: len(held) - way.held]
            if written:
                said.setdefault((way.slot, item if way.repeats else None), []).extend(written)
            held = [] if way.ends else held[len(written) :]
        return [Said(slot, number, tuple(written)) for (slot, number), written in said.items()]


def draw_languages(languages: Sequence[Language], *, num_ids: int) -> Diagram:
    """Return the diagram of ``languages``.

    Args:
        languages: What each task may write.
        num_ids: Size of the vocabulary.

    Raises:
        PlanError: A closed set or a range is empty, or an id is outside the vocabulary (T0225), nothing
            tells where free ids end (T0253), or frames stand where they cannot be written (T0257).
    """
    problems = [
        Problem(code, f"language {number} {message}")
        for number, language in enumerate(languages)
        for code, messages in (
            ("T0225", _check(language, num_ids)),
            ("T0257", _check_frames(language)),
        )
        for message in messages
    ]
    if problems:
        raise PlanError(*problems)
    draft = _Draft()
    roots = tuple(draft.add(language) for language in languages)
    longest = max((_measure(language) or 0 for language in languages), default=0)
    frames = [[step.most for step in each if isinstance(step, Continuous)] for each in languages]
    return Diagram(
        draft.states(),
        roots,
        longest,
        most_slots=max(map(len, frames), default=0),
        most_frames=max(map(sum, frames), default=0),
    )


class _Draft:
    """States in the making. A *link* from one to another lends it all that the other allows."""

    def __init__(self) -> None:
        self._states: list[State] = []
        self._links: list[list[tuple[int, bool]]] = []
        self._repeats = False
        self._add_state(State({PAD: Way(FINISHED)}))

    def add(self, language: Language) -> int:
        """Add the states of ``language`` and return its root."""
        end = self._add_state(State({EOS: Way(FINISHED)}))
        return self._add_steps(language, end)

    def states(self) -> tuple[State, ...]:
        """Return the states, links followed.

        Raises:
            PlanError: A state would have two ranges.
        """
        return tuple(self._join(number) for number in range(len(self._states)))

    def _add_state(self, state: State) -> int:
        self._states.append(state)
        self._links.append([])
        return len(self._states) - 1

    def _add_steps(self, steps: Sequence[Step], tail: int) -> int:
        """Add ``steps``, the last of which leads to ``tail``; return where they begin."""
        places = list(range(len(steps)))[::-1]
        for place in places:
            step = steps[place]
            before = steps[place - 1] if place else None
            if isinstance(step, Forced) and isinstance(before, Free) and step.ids:
                tail = self._add_ending(before, step.ids, tail)
            elif isinstance(step, Free):
                after = steps[place + 1] if place + 1 < len(steps) else None
                if not (isinstance(after, Forced) and after.ids):
                    tail = self._add_free(step, tail)
            else:
                tail = self._add_step(step, tail)
        return tail

    def _add_step(self, step: Forced | Some | OneOf | Repeat | Continuous, tail: int) -> int:
        match step:
            case Continuous():
                return self._add_state(State(rest=Way(tail, step.slot), frames=step))
            case Forced(ids):
                for id_ in reversed(ids):
                    tail = self._add_state(State({id_: Way(tail)}))
                return tail
            case Some(first=first, stop=stop, count=count, slot=slot):
                for _ in range(count):
                    rest = Way(tail, slot, repeats=self._repeats)
                    tail = self._add_state(State({}, first, stop, rest))
                return tail
            case OneOf():
                return self._add_answers(step, tail)
            case Repeat(steps):
                loop, outside = self._add_state(State()), self._repeats
                self._repeats = True
                self._links[loop] += [(self._add_steps(steps, loop), True), (tail, False)]
                self._repeats = outside
                return loop

    def _add_answers(self, step: OneOf, tail: int) -> int:
        root = self._add_state(State())
        for sequence in step.sequences:
            self._links[self._add_path(root, sequence, step.slot)].append((tail, False))
        return root

    def _add_path(self, state: int, ids: Sequence[int], slot: str) -> int:
        for id_ in ids:
            edges = self._states[state].edges
            if id_ not in edges:
                edges[id_] = Way(self._add_state(State()), slot, repeats=self._repeats)
            state = edges[id_].state
        return state

    def _add_free(self, free: Free, tail: int) -> int:
        number = len(self._states)
        rest = Way(number, free.slot, repeats=self._repeats)
        self._add_state(State({}, free.first, free.stop, rest))
        self._links[number].append((tail, False))
        return number

    def _add_ending(self, free: Free, ids: tuple[int, ...], tail: int) -> int:
        """Add free ids that end with ``ids``: a state for each number of them that has been seen."""
        root = len(self._states)
        for seen in range(len(ids)):
            is_text = all(free.first <= id_ < free.stop for id_ in ids[:seen])
            stop = free.stop if is_text else free.first
            rest = Way(root, free.slot, repeats=self._repeats)
            state = State({}, free.first, stop, rest)
            for id_ in dict.fromkeys(ids) if is_text else [ids[seen]]:
                if matched := _match(ids, (*ids[:seen], id_)):
                    ends = matched == len(ids)
                    to = tail if ends else root + matched
                    state.edges[id_] = rest._replace(state=to, held=matched, ends=ends)
            self._add_state(state)
        return root

    def _join(self, number: int) -> State:
        """Return state ``number`` with what its links lend it; what it has itself goes first."""
        own = self._states[number]
        if own.frames is not None:
            return own
        edges = dict(own.edges)
        ranges = [(own.first, own.stop, own.rest)]
        for lender, begins in self._lenders(number):
            lent = self._states[lender]
            if lent.frames is not None:
                if edges or any(first < stop for first, stop, _ in ranges):
                    raise _endless()
                return lent
            for id_, way in lent.edges.items():
                edges.setdefault(id_, way._replace(begins=way.begins or begins))
            rest = lent.rest._replace(begins=lent.rest.begins or begins)
            ranges.append((lent.first, lent.stop, rest))
        ranges = [each for each in ranges if each[0] < each[1]]
        if (own.first < own.stop and len(ranges) > 1) or len({r.state for _, _, r in ranges}) > 1:
            raise _endless()
        return State(edges, *ranges[0]) if ranges else State(edges)

    def _lenders(self, number: int) -> Iterator[tuple[int, bool]]:
        """Yield what lends to state ``number``, nearest first, and whether an item begins there."""
        seen: set[int] = set()
        waiting = [(to, begins) for to, begins in reversed(self._links[number])]
        while waiting:
            lender, begins = waiting.pop()
            if lender in seen:
                continue
            seen.add(lender)
            yield lender, begins
            waiting += [(to, begins or more) for to, more in reversed(self._links[lender])]


def _endless() -> PlanError:
    message = "nothing tells where a text ends that is written freely"
    help_ = "write text between it and what follows it, such as a comma"
    return PlanError.of("T0253", message, help_)


def _match(ids: tuple[int, ...], written: tuple[int, ...]) -> int:
    """Return how many of ``ids``, from the first, ``written`` ends with."""
    lengths = range(min(len(ids), len(written)), 0, -1)
    return next((length for length in lengths if written[-length:] == ids[:length]), 0)


def _measure(steps: Language) -> int | None:
    """Return the most ids that ``steps`` write with the end, None if nothing bounds them."""
    total = 1
    for step in steps:
        match step:
            case Forced(ids):
                total += len(ids)
            case Some(count=count):
                total += count
            case OneOf(sequences=sequences):
                total += max(map(len, sequences))
            case Continuous():
                pass
            case _:
                return None
    return total


def _check(steps: Language, num_ids: int) -> Iterator[str]:
    for step in steps:
        if isinstance(step, Repeat):
            yield from _check(step.steps, num_ids)
        elif isinstance(step, OneOf) and not step.sequences:
            yield "is an empty closed set"
        elif isinstance(step, Free | Some) and step.first >= step.stop:
            yield f"has an empty range of ids, {step.first} to {step.stop}"
        elif outside := [id_ for id_ in _ids_of(step) if not 0 <= id_ < num_ids]:
            yield f"has id {outside[0]}, and the vocabulary has {num_ids}"


def _check_frames(language: Language) -> Iterator[str]:
    slots = [step.slot for step in language if isinstance(step, Continuous)]
    for step in _walk(language):
        if not isinstance(step, Continuous):
            continue
        if step.slot not in slots:
            yield f'has the frames of "{step.slot}" inside a group'
        elif slots.count(step.slot) > 1:
            yield f'has the frames of "{step.slot}" twice'
        if step.most < 1:
            yield f'has at most {step.most} frames of "{step.slot}", and must have room for one'


def _walk(steps: Language) -> Iterator[Step]:
    for step in steps:
        yield step
        if isinstance(step, Repeat):
            yield from _walk(step.steps)


def _ids_of(step: Forced | Free | Some | OneOf | Continuous) -> list[int]:
    match step:
        case Continuous():
            return []
        case Forced(ids):
            return list(ids)
        case Free(first=first, stop=stop) | Some(first=first, stop=stop):
            return [first, stop - 1]
        case OneOf(sequences=sequences):
            return [id_ for sequence in sequences for id_ in sequence]
