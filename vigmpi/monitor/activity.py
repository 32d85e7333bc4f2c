"""The current action of a rank."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vigmpi.layout.layout import Layout
from vigmpi.schedule.kinds import KINDS

_MEDIAN_STEPS = 101  # number of the latest mini-batches whose median duration is taken


class CurrentAction(NamedTuple):
    """Action that a rank is performing.

    Attributes:
        kind: a key of `KINDS`.
        micro_batch: its index, or -1 if the action concerns the entire mini-batch.
        mini_batch: its number in the run, from 1; 0 before the first.
        transitions: number of actions that this rank has begun or ended so far.
        since: start of the action, in seconds of `time.perf_counter`.
    """

    kind: str
    micro_batch: int
    mini_batch: int
    transitions: int
    since: float

    def __str__(self) -> str:
        text = KINDS[self.kind].label
        if self.micro_batch >= 0:
            text += f" of micro-batch {self.micro_batch}"
        return f"{text} (mini-batch {self.mini_batch})" if self.mini_batch else text


class Activity:
    """Tracker of this rank's actions, readable from any thread at any time.

    Args:
        rank: this process's rank in MPI_COMM_WORLD.

    Attributes:
        current: the current action, replaced in one assignment, so that readers see no mixture.
        step_s: durations of the latest mini-batches, in seconds.
        parts_s: time that this rank has spent in exchanges with other parts, in seconds.
        restarts: number of restarts after MPI failures.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.layout: Layout | None = None  # until it is known
        self.restarts = 0
        self.parts_s = 0.0
        self.current = CurrentAction("start", -1, 0, 0, time.perf_counter())
        self.step_s: deque[float] = deque(maxlen=_MEDIAN_STEPS)

    def restart(self, rank: int) -> None:
        """Return to start-up with this rank of a new communicator."""
        self.rank, self.layout = rank, None
        self.restarts += 1
        mini_batch, transitions = self.current.mini_batch, self.current.transitions + 1
        self.current = CurrentAction("start", -1, mini_batch, transitions, time.perf_counter())

    def begin(self, kind: str, micro_batch: int = -1) -> CurrentAction:
        """Begin an action and return the enclosing one, which `end` takes."""
        outer = self.current
        mini_batch = outer.mini_batch + (kind == "step")
        self.current = CurrentAction(
            kind, micro_batch, mini_batch, outer.transitions + 1, time.perf_counter()
        )
        return outer

    def end(self, outer: CurrentAction) -> None:
        """Return to the enclosing action; not called for a failed action, which stays current."""
        ended, end = self.current, time.perf_counter()
        self.current = CurrentAction(
            outer.kind, outer.micro_batch, ended.mini_batch, ended.transitions + 1, end
        )
        if ended.kind == "step":
            self.step_s.append(end - ended.since)

    @contextmanager
    def exchange_with_parts(self) -> Iterator[None]:
        """Context of an exchange within another action."""
        start, outer = time.perf_counter(), self.begin("parts", self.current.micro_batch)
        yield
        self.end(outer)
        self.parts_s += time.perf_counter() - start

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        outer = self.begin(kind)
        yield
        self.end(outer)


def describe_rank(rank: int, layout: Layout | None, process: str) -> str:
    """Return the rank with its place, if known, and its process."""
    place = layout.place(rank) if layout else None
    position = ""
    if layout and place:
        position = f"stage {place.stage}, replica {place.replica}"
        position += f", part {place.part}; " if layout.parts > 1 else "; "
    return f"rank {rank} ({position}{process})"
