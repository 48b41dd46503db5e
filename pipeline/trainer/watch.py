"""A watch on the ranks of a run: one that hangs ends the run, and is named.

Every rank says in the store that all of them share what it is doing, and since when, again and again from a
thread of its own; so a process that is stopped falls silent, and one whose work does not get on says so. Some
ranks look at all others. Ranks that wait for others are not to blame for it, unless all of them do.

Ranks come to the same places in the same order: pieces of work, and talks with each other within them. Who
waits for others has come to a place that they have not. So where all seem to wait, who is behind is to blame.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ...graph.errors import TrainingError
from .resting import Resting

PATIENCE_S: Final = 600.0
"""Seconds that work may take which is no step: compiling, evaluating, writing.

It is ended sooner where nobody does anything meanwhile, unless to wait for a disk or another machine.
"""

_TIMES: Final = 4
"""How many times as long as the slowest work of its kind so far some may take."""

_MAX_WATCHERS: Final = 16
"""Ranks that look at all others; a thousand that did would keep the store busy."""

_KEY: Final = "taskloom/rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What a rank says of itself.

    Attributes:
        rank: Its number.
        host: Its machine.
        pid: Its process there.
        number: How often it has said something.
        step: The step that it is at, counted from 1.
        place: How many places of that step it has come to.
        doing: What it does.
        since_s: For how many seconds.
        limit_s: How many seconds it may take.
        rested_s: For how many seconds the process has done nothing at all.
        rest_s: For how many seconds it may do nothing.
        is_waiting: Whether that is to wait for other ranks.
        is_over: Whether it has come to its end.
    """

    rank: int
    host: str
    pid: int
    number: int = 0
    step: int = 0
    place: int = 0
    doing: str = "beginning"
    since_s: float = 0.0
    limit_s: float = PATIENCE_S
    rested_s: float = 0.0
    rest_s: float = PATIENCE_S
    is_waiting: bool = False
    is_over: bool = False

    def is_late(self, at_work: Iterable[Sign]) -> bool:
        """Whether it has been at it for too long, or has done nothing for too long while nobody did.

        Of ranks that compile, one may wait for what another compiles.

        Args:
            at_work: Ranks whose processes do something. To wait for others may be that too, which says nothing,
                unless all say that they wait whatever they do.
        """
        if self.since_s > self.limit_s:
            return True
        is_at_rest = min(self.since_s, self.rested_s) > self.rest_s
        return is_at_rest and all(each.is_waiting and not self.is_waiting for each in at_work)

    @property
    def progress(self) -> tuple[int, int]:
        """How far it has come, to be compared with that of others."""
        return self.step, self.place

    def __str__(self) -> str:
        where = f"process {self.pid} on {self.host}"
        return f"rank {self.rank} ({where}) was {self.doing} at step {self.step:,}"


@dataclass(slots=True)
class Watch:
    """What a rank says of itself, and what it sees of others.

    Attributes:
        rank: Its own number.
        num_ranks: How many there are.
        store: What all of them share; None where there is one rank.
        limit_s: Seconds without a sign after which a rank is given up.
        every_s: Seconds between two signs.
    """

    rank: int = 0
    num_ranks: int = 1
    store: Any = None
    limit_s: float = 0.0
    every_s: float = 1.0
    _step: int = 0
    _place: int = 0
    _doing: str = "beginning"
    _began: float = field(default_factory=time.monotonic)
    _allowed_s: float = PATIENCE_S
    _rest_s: float = PATIENCE_S
    _resting: Resting = field(default_factory=Resting)
    _is_waiting: bool = False
    _is_usual: bool = False
    _usual_s: float = 0.0
    _is_over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _seen: dict[int, tuple[Sign, float]] = field(default_factory=dict[int, tuple[Sign, float]])

    def start(self) -> None:
        """Begin to give signs, and to look at those of others."""
        self._tell(0)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def enter(
        self,
        doing: str,
        *,
        step: int | None = None,
        limit_s: float = 0.0,
        is_waiting: bool = False,
        is_usual: bool = False,
        may_rest: bool = False,
    ) -> None:
        """Say what this rank is about to do; it costs no more than setting a few values.

        Args:
            doing: In words that go on from "it was".
            step: The step that it is at from now on, counted from 1.
            limit_s: Seconds it may take, where those of a step do not suit it.
            is_waiting: Whether it is to wait for other ranks.
            is_usual: Whether every step does so: the next time it may take a few times as long.
            may_rest: Whether its process may do nothing all the while, as one that waits for another machine.
        """
        now = time.monotonic()
        if self._is_usual:
            self._usual_s = max(self._usual_s, now - self._began)
        self._doing, self._is_waiting, self._is_usual = doing, is_waiting, is_usual
        self._allowed_s = limit_s or max(self.limit_s, _TIMES * self._usual_s)
        self._rest_s = self._allowed_s if may_rest else self.limit_s
        if step is not None and step != self._step:
            self._step, self._place = step, 0
        self._place += 1
        self._began = now

    def wait(self, doing: str) -> None:
        """Say that this rank goes on to wait for others, in the time that it was given for its work."""
        self._doing, self._is_waiting = doing, True
        self._place += 1

    def talk(self) -> None:
        """Say that this rank is about to talk with others within its work, as all of them do there."""
        self._place += 1

    def sign(self, number: int, rested_s: float = 0.0) -> Sign:
        """Return what this rank says of itself when it does so for time ``number``."""
        return Sign(
            rank=self.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            number=number,
            step=self._step,
            place=self._place,
            doing=self._doing,
            since_s=time.monotonic() - self._began,
            limit_s=self._allowed_s,
            rested_s=rested_s,
            rest_s=self._rest_s,
            is_waiting=self._is_waiting,
            is_over=self._is_over.is_set(),
        )

    def close(self) -> None:
        """Say that this rank has come to its end."""
        if self._thread is not None:
            self._is_over.set()
            self._thread.join()
            self._thread = None

    def find_silent(self, wait_s: float) -> list[Sign]:
        """Return the last signs of ranks that give none for ``wait_s`` from now."""
        if self.store is None:
            return []
        with suppress(RuntimeError):
            before = self.read()
            time.sleep(wait_s)
            after = self.read()
            return [sign for sign, last in zip(after, before, strict=True) if sign == last]
        return []

    def read(self) -> list[Sign]:
        """Return the last sign of every rank; it waits for those that have given none yet."""
        keys = [f"{_KEY}/{rank}" for rank in range(self.num_ranks)]
        return [Sign(**json.loads(told)) for told in self.store.multi_get(keys)]

    def judge(self, signs: Sequence[Sign], now: float) -> tuple[str, list[Sign]] | None:
        """Return what is wrong and with which ranks; None if all is well.

        Args:
            signs: The last sign of every rank.
            now: Seconds on this rank's clock: a sign counts from when it is first seen.
        """
        for sign in signs:
            if sign.rank not in self._seen or self._seen[sign.rank][0].number != sign.number:
                self._seen[sign.rank] = sign, now
        going = [sign for sign in signs if not sign.is_over]
        silent = [s for s in going if now - self._seen[s.rank][1] > self.limit_s]
        if silent:
            return "gave no sign", silent
        at_work = [sign for sign in going if sign.rested_s <= self.limit_s]
        late = [sign for sign in going if sign.is_late(at_work)]
        if stuck := [sign for sign in late if not sign.is_waiting]:
            return "does not get on", stuck
        # One that was late a moment ago may just have been let go on: nobody may have moved for a while.
        if all(sign.since_s > self.limit_s for sign in going):
            furthest = max((sign.progress for sign in going), default=(0, 0))
            if behind := [sign for sign in late if sign.progress < furthest]:
                return "does not get on", _find_last(behind)
        if going and len(late) == len(going):
            return "waits for others, as all do", late
        return None

    def _run(self) -> None:
        number, is_watcher = 0, self.rank % (1 + (self.num_ranks - 1) // _MAX_WATCHERS) == 0
        # The store is gone when the launcher is: then there is nobody left to tell.
        with suppress(RuntimeError):
            while not self._is_over.wait(self.every_s):
                self._tell(number := number + 1)
                if is_watcher and (told := self.judge(self.read(), time.monotonic())):
                    self._end(*told)
            self._tell(number + 1)

    def _tell(self, number: int) -> None:
        sign = self.sign(number, self._resting.look())
        self.store.set(f"{_KEY}/{self.rank}", json.dumps(asdict(sign)))

    def _end(self, what: str, signs: Sequence[Sign]) -> None:
        """Say what is wrong, and end the run: the launcher stops those that are left."""
        if self.store.add(f"{_KEY}/told", 1) == 1:
            sys.stderr.write(f"{_explain(what, signs, self.limit_s)}\n")
            sys.stderr.flush()
        else:
            time.sleep(self.every_s)  # for the one that tells
        for sign in signs:
            # A stopped process does not hear that it should end, and the launcher would wait for it.
            if what == "gave no sign" and sign.host == socket.gethostname():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(sign.pid, signal.SIGKILL)
        os._exit(1)


def _find_last(signs: Sequence[Sign]) -> list[Sign]:
    """Return those that have come least far."""
    least = min(sign.progress for sign in signs)
    return [sign for sign in signs if sign.progress == least]


def _explain(what: str, signs: Sequence[Sign], limit_s: float) -> TrainingError:
    ranks = ", ".join(str(sign.rank) for sign in signs)
    waited = limit_s if what == "gave no sign" else max(sign.since_s for sign in signs)
    lines = [str(sign) for sign in signs]
    help_ = (
        "the same command goes on from the last checkpoint; look what its machine was doing then\n"
        "where machines stand still for a while, set rank_timeout_s higher"
    )
    message = f"rank {ranks} {what} for {waited:,.0f} s"
    return TrainingError.of("T0763", message, "\n".join([*lines, help_]))
