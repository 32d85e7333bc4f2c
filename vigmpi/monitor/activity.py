"""What a rank is doing, and which ranks it then waits for."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vigmpi.layout.layout import Layout
from vigmpi.schedule import Kind

_STEPS = 101  # newest mini-batches, for their median


class ActionDescription(NamedTuple):
    """One kind of action.

    Attributes:
        words: for a reader.
        waits_for: the ranks without which it can't end; none where a rank computes.
        collective: it ends once all of these have come to it.
    """

    words: str
    waits_for: Callable[[Layout, int], list[int]]
    collective: bool = False


def _nobody(layout: Layout, rank: int) -> list[int]:  # noqa: ARG001
    return []


def _previous(layout: Layout, rank: int) -> list[int]:
    return [rank - 1] if layout.place(rank).stage > 0 else []


def _following(layout: Layout, rank: int) -> list[int]:
    return [rank + 1] if layout.place(rank).stage < layout.stages - 1 else []


def _neighbours(layout: Layout, rank: int) -> list[int]:
    return _previous(layout, rank) + _following(layout, rank)


def _replicas(layout: Layout, rank: int) -> list[int]:
    stage = layout.place(rank).stage
    return [other for other in range(stage, layout.ranks, layout.stages) if other != rank]


def _everybody(layout: Layout, rank: int) -> list[int]:
    return [other for other in range(layout.ranks) if other != rank]


# Their order is their number in a heartbeat.
ACTIONS: dict[str, ActionDescription] = {
    "start": ActionDescription("start-to_monitors", _nobody),
    Kind.FORWARD: ActionDescription("forward", _nobody),
    Kind.BACKWARD: ActionDescription("backward", _nobody),
    Kind.RECEIVE_FEATURES: ActionDescription("receive of features", _previous),
    Kind.RECEIVE_GRADIENTS: ActionDescription("receive of gradients", _following),
    Kind.SEND_FEATURES: ActionDescription("send of features", _following),
    Kind.SEND_GRADIENTS: ActionDescription("send of gradients", _previous),
    "step": ActionDescription("mini-batch", _nobody),
    "data": ActionDescription("data", _nobody),
    "gradient sum": ActionDescription("gradient sum", _replicas, collective=True),
    "statistics": ActionDescription("statistics", _replicas, collective=True),
    "optimizer": ActionDescription("optimizer", _nobody),
    "last sends": ActionDescription("last sends", _neighbours),
    "timings": ActionDescription("gather of timings", _everybody, collective=True),
    "agreement": ActionDescription("agreement", _everybody, collective=True),
    "record": ActionDescription("record", _nobody),
    "checkpoint": ActionDescription("checkpoint", _everybody, collective=True),
    "end": ActionDescription("end of the run", _everybody, collective=True),
}


class CurrentAction(NamedTuple):
    """Attributes:
    kind: a key of `ACTIONS`.
    micro_batch: -1 where it concerns the whole mini-batch.
    mini_batch: of the run, from 1; 0 before the first.
    moves: how often this rank has begun or ended something.
    since: by `time.perf_counter`.
    """

    kind: str
    micro_batch: int
    mini_batch: int
    moves: int
    since: float

    def __str__(self) -> str:
        words = ACTIONS[self.kind].words
        if self.micro_batch >= 0:
            words += f" of micro-batch {self.micro_batch}"
        return f"{words} (mini-batch {self.mini_batch})" if self.mini_batch else words


class Activity:
    """What this rank is doing; another thread may read it at any time.

    Args:
        rank: in MPI_COMM_WORLD.

    Attributes:
        now: replaced as a whole, so that a reader never meets half of a change.
        step_s: seconds of the newest mini-batches.
        restarts: how often it has begun anew because MPI failed.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.layout: Layout | None = None  # until it is known
        self.restarts = 0
        self.now = CurrentAction("start", -1, 0, 0, time.perf_counter())
        self.step_s: deque[float] = deque(maxlen=_STEPS)

    def restart(self, rank: int) -> None:
        """Begin anew, as this rank of another world."""
        self.rank, self.layout = rank, None
        self.restarts += 1
        now = self.now
        self.now = now._replace(
            kind="start", micro_batch=-1, moves=now.moves + 1, since=time.perf_counter()
        )

    def begin(self, kind: str, micro_batch: int = -1) -> CurrentAction:
        """Returns: what to pass to `end`."""
        outer = self.now
        mini_batch = outer.mini_batch + (kind == "step")
        self.now = CurrentAction(
            kind, micro_batch, mini_batch, outer.moves + 1, time.perf_counter()
        )
        return outer

    def end(self, outer: CurrentAction) -> None:
        """Back to what was under way before; not connected where an action failed."""
        ended, now = self.now, time.perf_counter()
        self.now = CurrentAction(
            outer.kind, outer.micro_batch, ended.mini_batch, ended.moves + 1, now
        )
        if ended.kind == "step":
            self.step_s.append(now - ended.since)

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        outer = self.begin(kind)
        yield
        self.end(outer)


def describe_rank(rank: int, layout: Layout | None, process: str) -> str:
    """Args: process: as `vigmpi.host.process_name` gives it."""
    place = layout.place(rank) if layout else None
    at = f"stage {place.stage}, replica {place.replica}; " if place else ""
    return f"rank {rank} ({at}{process})"
