"""Diagnosis of dead, silent and stalled ranks, without threads, sockets or MPI."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import CurrentAction, describe_rank
from vigmpi.monitor.heartbeat import INTERVAL_S, Heartbeat, Status
from vigmpi.schedule.kinds import KINDS

_STALL_TIMEOUT_S = 300.0
_STALL_STEPS = 20  # in median mini-batches
_START_UP_FACTOR = 10  # for kernel compilation and downloads before the first mini-batch ends
_HOLD_OFF_S = 10.0  # for a rank that has reported a failure to end the run


def monitors(ranks: int) -> list[int]:
    """Return the monitors: rank 0 watches all other ranks, the last rank watches rank 0."""
    return sorted({0, ranks - 1})


def stall_bound(setting: float | None, step_s: Sequence[float]) -> float:
    """Return the number of seconds within which some rank must make progress.

    Args:
        setting: `--stall-timeout`, if given.
        step_s: durations of the latest mini-batches, in seconds; empty before the first ends.
    """
    if not step_s:
        return _START_UP_FACTOR * (setting or _STALL_TIMEOUT_S)
    return setting or max(_STALL_TIMEOUT_S, _STALL_STEPS * median(step_s))


def wait_for_graph(layout: Layout, kinds: Sequence[str]) -> list[list[int]]:
    """Return, for each rank, the ranks that it waits for: in a collective, those not yet in it.

    Args:
        kinds: the kind of each rank's current action, [ranks].
    """
    graph = []
    for rank, kind in enumerate(kinds):
        action = KINDS[kind]
        peers = action.waits_for(layout, rank)
        graph.append([p for p in peers if not (action.collective and kinds[p] == kind)])
    return graph


def find_culprits(layout: Layout, kinds: Sequence[str]) -> tuple[list[int], str]:
    """Return the ranks that keep the others from making progress, and an explanation.

    They are the ranks that compute; if there are none, a cycle in the wait-for graph; if there is
    none, the ranks in a collective that all of its ranks have entered.
    """
    computing = [r for r, kind in enumerate(kinds) if not KINDS[kind].waits_for(layout, r)]
    if len(computing) == len(kinds):
        return computing, "no rank is waiting for another"
    if computing:
        pronoun = "it" if len(computing) == 1 else "them"
        return computing, f"all other ranks are waiting for {pronoun}"
    graph = wait_for_graph(layout, kinds)
    path: list[int] = [next((rank for rank, peers in enumerate(graph) if peers), 0)]
    while graph[path[-1]]:
        successor = graph[path[-1]][0]
        if successor in path:
            return sorted(path[path.index(successor) :]), "they form a circular wait"
        path.append(successor)
    participants = [r for r, kind in enumerate(kinds) if kind == kinds[path[-1]]]
    return participants, "the collective has not completed"


@dataclass
class _RankState:
    """State of a rank as seen by a monitor; times in seconds of the monitor's clock."""

    action: CurrentAction
    last_heartbeat: float
    last_progress: float
    disconnected: bool = False
    excused: bool = False  # has shut down in order, or its loss is tolerated


class FailureDetector:
    """State of all ranks as one rank knows it from their heartbeats, and its diagnosis.

    Args:
        rank: the rank that the detector runs on.
        processes: process id and host of each rank, [ranks].
        heartbeat_timeout: seconds without a heartbeat after which a rank counts as stopped.
        time: current time, in seconds of the monotonic clock that all methods are given.
        tolerate_loss: the run continues without ranks that have died.
    """

    def __init__(
        self,
        rank: int,
        layout: Layout,
        processes: Sequence[str],
        heartbeat_timeout: float,
        time: float,
        *,
        tolerate_loss: bool = False,
    ) -> None:
        self._rank = rank
        self._layout = layout
        self._processes = processes
        self._heartbeat_timeout = heartbeat_timeout
        self._tolerate_loss = tolerate_loss
        start = CurrentAction("start", -1, 0, 0, 0.0)
        self._states = [_RankState(start, time, time) for _ in processes]
        self._monitors = monitors(len(processes))
        self._last_check = time
        self._hold_off_until = time

    def receive(self, heartbeat: Heartbeat, time: float) -> None:
        state = self._states[heartbeat.rank]
        if heartbeat.action.transitions != state.action.transitions:
            state.last_progress = time
        state.action, state.last_heartbeat = heartbeat.action, time
        state.excused |= heartbeat.status is Status.SHUTDOWN
        if heartbeat.status is Status.REPORTED:
            self._hold_off_until = time + _HOLD_OFF_S

    def disconnect(self, rank: int) -> None:
        """Note that the connection to a rank has ended."""
        self._states[rank].disconnected = True
        self._states[rank].excused |= self._tolerate_loss

    def diagnose(self, time: float, stall_timeout: float) -> str | None:
        """Return the message to end the run with, or None if it need not end."""
        self._apply_grace_period(time)
        if time < self._hold_off_until:
            return None
        if self._rank not in self._monitors:
            return self._diagnose_monitors()
        if dead := [rank for rank in self._watched_ranks() if self._states[rank].disconnected]:
            silent_s = self._silence(dead, time)
            return self._message(dead, "died", f"; last heartbeat {silent_s:.1f} s ago", time)
        if stopped := self.stopped_ranks(time):
            silent_s = self._silence(stopped, time)
            verb = f"{'is' if len(stopped) == 1 else 'are'} stopped or holding the GIL"
            return self._message(stopped, verb, f": no heartbeat for {silent_s:.1f} s", time)
        stalled_s = time - max(state.last_progress for state in self._states)
        if self._rank == 0 and stalled_s > stall_timeout:
            kinds = [state.action.kind for state in self._states]
            culprits, explanation = find_culprits(self._layout, kinds)
            verb = "has" if len(culprits) == 1 else "have"
            verb += f" made no progress for {stalled_s:.1f} s"
            return self._message(culprits, verb, f"; {explanation}", time)
        return None

    def stopped_ranks(self, time: float) -> list[int]:
        """Return the ranks watched from here whose heartbeat has timed out."""
        self._apply_grace_period(time)
        timeout = self._heartbeat_timeout
        return [r for r in self._watched_ranks() if self._silence([r], time) > timeout]

    def _silence(self, ranks: Sequence[int], time: float) -> float:
        return max(time - self._states[rank].last_heartbeat for rank in ranks)

    def _watched_ranks(self) -> list[int]:
        if self._rank not in self._monitors:
            return []
        ranks = range(1, len(self._states)) if self._rank == 0 else [0]
        return [rank for rank in ranks if not self._states[rank].excused]

    def _apply_grace_period(self, time: float) -> None:
        """Grant all ranks the time for which this process itself was suspended."""
        suspended_s = time - self._last_check - 2 * INTERVAL_S
        if suspended_s > 0:
            for state in self._states:
                state.last_heartbeat += suspended_s
                state.last_progress += suspended_s
        self._last_check = time

    def _diagnose_monitors(self) -> str | None:
        states = [self._states[rank] for rank in self._monitors]
        if not all(state.disconnected and not state.excused for state in states):
            return None
        names = " and ".join(self._name(rank) for rank in self._monitors)
        return f"{names} died; they monitored the run (reported by rank {self._rank})\n"

    def _message(self, culprits: Sequence[int], verb: str, explanation: str, time: float) -> str:
        names = ", ".join(self._name(rank) for rank in culprits)
        actions = ", ".join(dict.fromkeys(str(self._states[r].action) for r in culprits))
        rows = "".join(f"  {row}\n" for row in self._table(time))
        return f"{names} {verb} in {actions}{explanation} (reported by rank {self._rank})\n{rows}"

    def _name(self, rank: int) -> str:
        return describe_rank(rank, self._layout, self._processes[rank])

    def _table(self, time: float) -> Iterator[str]:
        """Yield the rows of the wait-for table, one for each rank."""
        graph = wait_for_graph(self._layout, [state.action.kind for state in self._states])
        width = max(len(str(state.action)) for state in self._states)
        for rank, (state, peers) in enumerate(zip(self._states, graph, strict=True)):
            place, silent_s = self._layout.place(rank), self._silence([rank], time)
            numbers = ", ".join(map(str, peers))
            blockers = f"rank{'s' * (len(peers) > 1)} {numbers}" if peers else "nobody"
            part = f"part {place.part}  " if self._layout.parts > 1 else ""
            yield (
                f"rank {rank}  stage {place.stage}  replica {place.replica}  {part}"
                f"{state.action!s:{width}}  {state.action.since + silent_s:6.1f} s  "
                f"waiting for {blockers:6}  last heartbeat {silent_s:.1f} s ago"
            )
