"""Who is to blame where ranks are silent, gone, or don't get on: no thread, no socket, no MPI."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import ACTIONS, CurrentAction, describe_rank
from vigmpi.monitor.heartbeat import INTERVAL_S, Heartbeat, Status

_STALL_TIMEOUT_S = 300.0
_STALL_STEPS = 20  # of a mini-batch's median
_START_UP_FACTOR = 10  # times as much before the first mini-batch is through: kernels, downloads
_HOLD_OFF_S = 10.0  # for a rank that has told of a failure to end the run


def monitors(ranks: int) -> list[int]:
    """Rank 0 monitors all others, the last rank monitors rank 0."""
    return sorted({0, ranks - 1})


def stall_bound(setting: float | None, step_s: Sequence[float]) -> float:
    """Seconds in which some rank must get on.

    Args:
        setting: the user's, if any.
        step_s: the newest mini-batches' seconds.
    """
    if not step_s:
        return _START_UP_FACTOR * (setting or _STALL_TIMEOUT_S)
    return setting or max(_STALL_TIMEOUT_S, _STALL_STEPS * median(step_s))


def blocked_by(layout: Layout, kinds: Sequence[str]) -> list[list[int]]:
    """The wait-for graph: for each rank, those that it waits for.

    Args:
        kinds: what each rank is doing, [ranks]. In a collective it waits for those elsewhere.
    """
    graph = []
    for rank, kind in enumerate(kinds):
        what = ACTIONS[kind]
        peers = what.waits_for(layout, rank)
        graph.append([p for p in peers if not (what.collective and kinds[p] == kind)])
    return graph


def find_culprits(layout: Layout, kinds: Sequence[str]) -> tuple[list[int], str]:
    """Which ranks keep the others from getting on, and how: those that compute, else a circle."""
    computing = [r for r, kind in enumerate(kinds) if not ACTIONS[kind].waits_for(layout, r)]
    if computing:
        return computing, "without end, and all others wait"
    graph = blocked_by(layout, kinds)
    path: list[int] = [next((rank for rank, peers in enumerate(graph) if peers), 0)]
    while graph[path[-1]]:
        following = graph[path[-1]][0]
        if following in path:
            return sorted(path[path.index(following) :]), "each waits for the next, in a circle"
        path.append(following)
    return [r for r, kind in enumerate(kinds) if kind == kinds[path[-1]]], "it does not end"


@dataclass
class _Seen:
    """ActionDescription a detector knows of a rank; times by its own clock."""

    now: CurrentAction
    heard: float
    moved: float
    left: bool = False
    lost: bool = False


class FailureDetector:
    """What one rank knows of the others, and what it makes of it.

    Args:
        rank: whose.
        processes: process id and host of each rank, [ranks].
        heartbeat_timeout: after so long without a sign a rank counts as stopped.
        now: of the clock that all methods are given.
        tolerate_loss: whether the run goes on without ranks that died.
    """

    def __init__(
        self,
        rank: int,
        layout: Layout,
        processes: Sequence[str],
        heartbeat_timeout: float,
        now: float,
        *,
        tolerate_loss: bool = False,
    ) -> None:
        self._rank = rank
        self._layout = layout
        self._processes = processes
        self._heartbeat_timeout = heartbeat_timeout
        self._may_lose = tolerate_loss
        self._seen = [_Seen(CurrentAction("start", -1, 0, 0, 0.0), now, now) for _ in processes]
        self._monitors = monitors(len(processes))
        self._tick = now
        self._hold_off_until = now

    def hear(self, heartbeat: Heartbeat, now: float) -> None:
        seen = self._seen[heartbeat.rank]
        if heartbeat.now.moves != seen.now.moves:
            seen.moved = now
        seen.now, seen.heard = heartbeat.now, now
        seen.left |= heartbeat.status is Status.SHUTDOWN
        if heartbeat.status is Status.REPORTED:
            self._hold_off_until = now + _HOLD_OFF_S

    def lose(self, rank: int) -> None:
        """The connection to a rank has ended."""
        self._seen[rank].lost = True
        self._seen[rank].left |= self._may_lose

    def diagnose(self, now: float, stall_timeout: float) -> str | None:
        """The message to end the run with, if it has to end."""
        self._apply_grace_period(now)
        if now < self._hold_off_until:
            return None
        if self._rank not in self._monitors:
            return self._without_monitors()
        if died := [rank for rank in self._watched_ranks() if self._seen[rank].lost]:
            return self._message(died, "died", now)
        if stopped := self.stopped(now):
            silence = max(now - self._seen[rank].heard for rank in stopped)
            how = f"stopped, or keeps Python's lock: silent for {silence:.1f} s"
            return self._message(stopped, how, now)
        still = now - max(seen.moved for seen in self._seen)
        if self._rank == 0 and still > stall_timeout:
            culprits, how = find_culprits(self._layout, [seen.now.kind for seen in self._seen])
            return self._message(culprits, f"{how}: no rank has got on for {still:.1f} s", now)
        return None

    def stopped(self, now: float) -> list[int]:
        """The ranks of those that it monitors that give no sign of life."""
        self._apply_grace_period(now)
        return [
            r for r in self._watched_ranks() if now - self._seen[r].heard > self._heartbeat_timeout
        ]

    def _watched_ranks(self) -> list[int]:
        if self._rank not in self._monitors:
            return []
        others = range(1, len(self._seen)) if self._rank == 0 else [0]
        return [rank for rank in others if not self._seen[rank].left]

    def _apply_grace_period(self, now: float) -> None:
        """A detector that overslept gives all ranks that time again."""
        overslept = now - self._tick - 2 * INTERVAL_S
        if overslept > 0:
            for seen in self._seen:
                seen.heard += overslept
                seen.moved += overslept
        self._tick = now

    def _without_monitors(self) -> str | None:
        if not all(self._seen[rank].lost and not self._seen[rank].left for rank in self._monitors):
            return None
        names = " and ".join(self._name(rank) for rank in self._monitors)
        return f"{names}, which watch over the run: died [told by rank {self._rank}]\n"

    def _message(self, culprits: Sequence[int], how: str, now: float) -> str:
        who = ", ".join(f"{self._name(rank)}, {self._doing(rank, now)}" for rank in culprits)
        rows = "".join(f"  {row}\n" for row in self._table(now))
        return f"{who}: {how} [told by rank {self._rank}]\n{rows}"

    def _doing(self, rank: int, now: float) -> str:
        seen = self._seen[rank]
        return f"heard {now - seen.heard:.1f} s ago in {seen.now}"

    def _name(self, rank: int) -> str:
        return describe_rank(rank, self._layout, self._processes[rank])

    def _table(self, now: float) -> Iterator[str]:
        """The wait-for table: a row for each rank."""
        graph = blocked_by(self._layout, [seen.now.kind for seen in self._seen])
        width = max(len(str(seen.now)) for seen in self._seen)
        for rank, (seen, peers) in enumerate(zip(self._seen, graph, strict=True)):
            place, silent_s = self._layout.place(rank), now - seen.heard
            yield (
                f"rank {rank}  stage {place.stage}  replica {place.replica}  "
                f"{seen.now!s:{width}}  {seen.now.since + silent_s:6.1f} s  "
                f"{_waits_for(peers):16}  heard {silent_s:.1f} s ago"
            )


def _waits_for(peers: Sequence[int]) -> str:
    if not peers:
        return "waits for nobody"
    return f"waits for rank{'s' * (len(peers) > 1)} {', '.join(map(str, peers))}"
