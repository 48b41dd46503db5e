"""Writing a batch of targets that have slots of frames, text and frames in any order.

Ids are written until every document is finished or stands before a slot of frames; then all that wait for one
kind of slot write it together, and ids go on. A row has its own number of ids and of tokens, so that what it
writes is the same alone and in any batch.

The first id of a run after frames is scored from the state at the last frame. A target that begins with frames
has no begin of sequence, and places are counted anew in each run of ids and each slot of frames.

Shape letters: R = rows, one for each document, L = most ids, T = most frames, B = numbers of a frame, P = ids
given, C = channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ....graph.vocabulary import BOS, PAD
from ..language import FINISHED
from .canvas import Canvas
from .denoise import Known
from .draw import split_keys
from .options import Options
from .relative_stack import RelativeStack
from .rules import Rules
from .sampler import Page, Sampler
from .step import Sources
from .task import Moment, Task, Told
from .wanted import Frames, Wanted, check_wanted, rooms_of
from .written import Written, rank


class WrittenSlots(NamedTuple):
    """What was written.

    Attributes:
        ids: Ids; frames are none, and nothing stands for them there.
        frames: Frames, by slot.
    """

    ids: Written
    frames: Mapping[str, Frames]


@torch.no_grad()
def write_slots(
    task: Task,
    samplers: Mapping[str, Sampler],
    *,
    wanted: Mapping[str, Wanted] | None = None,
    free: Sources | None = None,
) -> WrittenSlots:
    """Write the targets of ``task``, slots of frames among them.

    A document that has written ``max_length`` ids is at its end, be there frames to come or not.

    Args:
        task: What is to be written. Its stack is a `RelativeStack`; nothing is compiled.
        samplers: What writes each slot of frames.
        wanted: What is wanted of slots.
        free: Sources that guidance leads away from, for the same documents.

    Raises:
        PlanError: The search follows several targets or has limits that count across frames, a slot has no
            sampler, or something else is wanted of it than there can be (T0258); or the model has too few
            positions (T0232).
    """
    check_wanted(task, samplers, wanted or {}, is_led=free is not None)
    writer = _Writer.of(task, samplers, wanted or {}, free)
    rows = writer.begin()
    while True:
        while bool((is_writing_R := writer.is_writing(rows)).any()):
            rows = writer.write_id(rows, is_writing_R)
        if not bool((is_waiting_R := writer.is_waiting(rows)).any()):
            break
        rows = writer.write_frames(rows, is_waiting_R)
    ids = rank(
        rows.tokens_RT[:, None, 1:],
        rows.log_probs_RL[:, None],
        (rows.states_R == FINISHED)[:, None],
        task,
    )
    return WrittenSlots(ids, writer.frames)


class _Rows(NamedTuple):
    """Where rows are.

    Attributes:
        states_R: States in the automaton.
        counts_R: Ids that were written.
        tokens_RT: The ids, the begin of sequence first, padding last.
        log_probs_RL: Log probability of each.
        next_R: Id that is to be read before anything else is written; padding for none.
        lines_R: Ids of the present run that were read.
        slots_R: Number of the present run, counted through runs and slots of frames.
        hidden_RC: State in the decoder after what was read.
    """

    states_R: Tensor
    counts_R: Tensor
    tokens_RT: Tensor
    log_probs_RL: Tensor
    next_R: Tensor
    lines_R: Tensor
    slots_R: Tensor
    hidden_RC: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Writer:
    """What steps have in common, and the frames that they write in place."""

    task: Task
    stack: RelativeStack
    rules: Rules
    samplers: Mapping[str, Sampler]
    wanted: Mapping[str, Wanted]
    canvases: tuple[Canvas, ...]
    keys_R: Tensor
    frames: dict[str, Frames]

    @classmethod
    def of(
        cls,
        task: Task,
        samplers: Mapping[str, Sampler],
        wanted: Mapping[str, Wanted],
        free: Sources | None,
    ) -> _Writer:
        automaton, stack = task.automaton, task.stack
        assert isinstance(stack, RelativeStack), "checked"
        stack.check(task.max_length)
        # Frames one after another are read from one line before the first.
        room = task.max_length + automaton.most_frames + automaton.most_slots
        sources = (task.sources,) if free is None else (task.sources, free)
        num_rows = len(task.roots_B)
        keys_R = task.keys_B
        if keys_R is None:
            keys_R = torch.arange(num_rows, device=task.roots_B.device)
        new = task.sources.memory_MC.new_zeros
        return cls(
            task=task,
            stack=stack,
            rules=Rules.of(task),
            samplers=samplers,
            wanted=wanted,
            canvases=tuple(Canvas.open(stack, each, room) for each in sources),
            keys_R=split_keys(keys_R, 1),
            frames={
                slot: Frames(
                    new(num_rows, most, samplers[slot].num_numbers),
                    torch.zeros_like(task.roots_B, dtype=torch.int64),
                )
                for slot, most in rooms_of(task).items()
            },
        )

    def begin(self) -> _Rows:
        task = self.task
        states_R = task.roots_B.long()
        zeros_R = torch.zeros_like(states_R)
        tokens_RT = states_R.new_full((len(states_R), task.max_length + 1), PAD)
        tokens_RT[:, 0] = BOS
        hidden_RC = task.sources.memory_MC.new_zeros(len(states_R), self.stack.weight_VC.shape[1])
        rows = _Rows(
            states_R=states_R,
            counts_R=zeros_R,
            tokens_RT=tokens_RT,
            log_probs_RL=hidden_RC.new_zeros(len(states_R), task.max_length, dtype=torch.float32),
            next_R=zeros_R + BOS,
            lines_R=zeros_R,
            slots_R=zeros_R,
            hidden_RC=hidden_RC,
        )
        return rows._replace(next_R=rows.next_R.where(self.is_writing(rows), PAD))

    def is_writing(self, rows: _Rows) -> Tensor:
        """Return which rows write an id next."""
        is_frames_R = self.task.automaton.frames_S[rows.states_R] >= 0
        is_told_R = rows.counts_R < self.task.begins(1)
        return self._is_open(rows) & (~is_frames_R | is_told_R)

    def is_waiting(self, rows: _Rows) -> Tensor:
        """Return which rows write frames next."""
        return self._is_open(rows) & ~self.is_writing(rows)

    def write_id(self, rows: _Rows, is_writing_R: Tensor) -> _Rows:
        """Write one more id of some rows."""
        rows = self._read_next(rows, is_writing_R)
        options = self._weigh(rows)
        chosen_R = self.rules.pick(options, self.keys_R, rows.counts_R)
        row_R = torch.arange(len(chosen_R), device=chosen_R.device)
        ids_R, log_probs_R, next_R = self._told(rows).obey(
            options.pick_ids(row_R, chosen_R),
            options.log_probs_of(row_R, chosen_R),
            self.rules.chooser.follow(options, rows.states_R, row_R, chosen_R),
            rows.states_R,
        )
        return rows._replace(
            states_R=next_R.where(is_writing_R, rows.states_R),
            counts_R=rows.counts_R + is_writing_R,
            tokens_RT=_put(rows.tokens_RT, rows.counts_R + 1, ids_R, is_writing_R),
            log_probs_RL=_put(rows.log_probs_RL, rows.counts_R, log_probs_R, is_writing_R),
            next_R=ids_R.where(is_writing_R, rows.next_R),
        )

    def write_frames(self, rows: _Rows, is_waiting_R: Tensor) -> _Rows:
        """Write the next slot of frames of some rows."""
        automaton = self.task.automaton
        rows = self._read_next(rows, is_waiting_R)
        kinds_R = automaton.frames_S[rows.states_R].where(is_waiting_R, -1)
        for number, step in enumerate(automaton.frames):
            if not bool((is_here_R := kinds_R == number).any()):
                continue
            rows = self._write_slot(rows, step.slot, step.most, is_here_R)
        return rows._replace(
            states_R=automaton.after_frames(rows.states_R).where(is_waiting_R, rows.states_R),
            lines_R=rows.lines_R.masked_fill(is_waiting_R, 0),
            slots_R=rows.slots_R + 2 * is_waiting_R,
        )

    def _write_slot(self, rows: _Rows, slot: str, most: int, is_here_R: Tensor) -> _Rows:
        wanted = self.wanted.get(slot, Wanted())
        counts_R = torch.full_like(rows.counts_R, most)
        if wanted.counts_R is not None:
            counts_R = wanted.counts_R.clamp(max=most)
        known = wanted.known
        if known is not None:
            known = Known(known.frames_RTB[:, :most], known.is_known_RT[:, :most])
        made = self.samplers[slot].write(
            Page(
                canvases=self.canvases,
                most=most,
                counts_R=counts_R.where(is_here_R, 0),
                slots_R=rows.slots_R + 1,
                seed=self.task.search.seed,
                keys_R=self.keys_R,
                known=known,
            )
        )
        frames_RTB, counts_R = self.frames[slot]
        is_frame_RT = torch.arange(most, device=is_here_R.device) < made.counts_R[:, None]
        frames_RTB[:, :most] = made.frames_RTB.where(is_frame_RT[..., None], frames_RTB[:, :most])
        counts_R += made.counts_R
        return rows._replace(hidden_RC=made.hidden_RC.where(is_here_R[:, None], rows.hidden_RC))

    def _is_open(self, rows: _Rows) -> Tensor:
        return (rows.states_R != FINISHED) & (rows.counts_R < self.task.max_length)

    def _read_next(self, rows: _Rows, is_asked_R: Tensor) -> _Rows:
        """Read the ids that some rows wrote last."""
        is_read_R = is_asked_R & (rows.next_R != PAD)
        stack, line_R = self.stack, rows.lines_R.clamp(max=self.task.max_length - 1)
        place_R = line_R + stack.tokens.spans[stack.form][0]
        x_RC, positions_RC = stack.tokens(F.embedding(rows.next_R, stack.weight_VC), place_R)
        states: list[Tensor] = []
        for canvas in self.canvases:
            look = canvas.prepare(
                place_R[:, None], positions_RC, rows.slots_R, is_read_R.long(), is_causal=True
            )
            states.append(canvas.look(look, x_RC)[:, 0])
            canvas.keep(look)
        return rows._replace(
            next_R=rows.next_R.masked_fill(is_read_R, PAD),
            lines_R=rows.lines_R + is_read_R,
            hidden_RC=states[0].where(is_read_R[:, None], rows.hidden_RC),
        )

    def _weigh(self, rows: _Rows) -> Options:
        """Return what each row may write next."""
        options = self.rules.chooser.weigh(self.stack, rows.hidden_RC, rows.states_R)
        moment = Moment(
            index=rows.counts_R, told=None, fan_out=None, may_be_short=True, is_last=False
        )
        begins_R = self.task.begins(1)
        left = self.rules.limits.apply(options, rows.tokens_RT, begins_R, moment)
        ended_RX, can_end_R1 = options.end()
        is_last_R1 = (rows.counts_R == self.task.max_length - 1)[:, None]
        return left._replace(scores_RX=ended_RX.where(is_last_R1 & can_end_R1, left.scores_RX))

    def _told(self, rows: _Rows) -> Told:
        """Return what rows are told to write next."""
        given_RP = self.task.given_BP
        if given_RP is None or not self.task.num_given:
            return Told(torch.full_like(rows.counts_R, PAD))
        column_R1 = rows.counts_R.clamp(max=self.task.num_given - 1)[:, None]
        ids_R = given_RP.long().gather(1, column_R1)[:, 0]
        return Told(ids_R.where(rows.counts_R < self.task.num_given, PAD))


def _put(into_RX: Tensor, columns_R: Tensor, values_R: Tensor, is_put_R: Tensor) -> Tensor:
    """Return ``into_RX`` with one value more in some rows."""
    column_R1 = columns_R.clamp(max=into_RX.shape[1] - 1)[:, None]
    old_R = into_RX.gather(1, column_R1)[:, 0]
    return into_RX.scatter(1, column_R1, values_R.where(is_put_R, old_R)[:, None])
