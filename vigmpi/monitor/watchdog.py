"""Watchdog of a run: a thread on each rank that sends heartbeats and diagnoses failures."""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import format_exc

from mpi4py import MPI

from vigmpi.comm.waiting import wait
from vigmpi.comm.world import abort
from vigmpi.errors import InputError, RunError
from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import Activity
from vigmpi.monitor.connections import Connections, connect_monitors
from vigmpi.monitor.failure_detector import FailureDetector, monitors, stall_bound
from vigmpi.monitor.heartbeat import INTERVAL_S, SIZE_BYTES, Heartbeat, Status
from vigmpi.standard_streams import show

_JOIN_TIMEOUT_S = 2.0
_DIAGNOSIS_S = 1.0  # for a monitor to report the dead rank that made MPI fail on this one
_READ_BYTES = 4096


@contextmanager
def watchdog(
    world: MPI.Intracomm,
    layout: Layout,
    activity: Activity,
    heartbeat_timeout: float,
    stall_timeout: float | None,
    *,
    mpi_reports_failures: bool = False,
) -> Iterator[None]:
    """Abort the run with a diagnosis if a rank dies or stops or the run stalls. Collective.

    A thread on each rank sends a heartbeat per second to the monitors, also while the main thread
    waits in MPI. Leaving the block without an error waits for all ranks.

    Args:
        activity: the actions of this rank's main thread.
        heartbeat_timeout: seconds without a heartbeat after which a rank counts as stopped.
        stall_timeout: seconds within which some rank must make progress (see `stall_bound`).
        mpi_reports_failures: leave dead ranks to MPI, which reports them; kill stopped ranks on a
            monitor's host, so that MPI reports these too.
    """
    connections = connect_monitors(world, monitors(world.size))
    if isinstance(connections, str):
        if world.rank == 0:
            show(f"warning: no watchdog: {connections}. Allow TCP between all hosts.\n")
        yield
        return
    detector = FailureDetector(
        world.rank,
        layout,
        list(map(str, connections.processes)),
        heartbeat_timeout,
        time.monotonic(),
        tolerate_loss=mpi_reports_failures,
    )
    thread = _Watchdog(connections, detector, activity, stall_timeout, mpi_reports_failures)
    thread.start()
    final_status = Status.REPORTED  # whoever catches the error prints it
    try:
        yield
        with activity("end"), suppress(*[MPI.Exception] * mpi_reports_failures):
            wait(world.Ibarrier())
        final_status = Status.SHUTDOWN
    except (InputError, RunError):  # raised on all ranks
        final_status = Status.SHUTDOWN
        raise
    except MPI.Exception:
        if not mpi_reports_failures:
            time.sleep(_DIAGNOSIS_S)
        raise
    finally:
        thread.finish(final_status)


class _Watchdog(threading.Thread):
    def __init__(
        self,
        connections: Connections,
        detector: FailureDetector,
        activity: Activity,
        stall_timeout: float | None,
        kill_stopped: bool,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._connections = connections
        self._detector = detector
        self._activity = activity
        self._stall_timeout = stall_timeout
        self._kill_stopped = kill_stopped
        self._unparsed: dict[socket.socket, bytes] = {}
        self._final_status: Status | None = None
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        for rank, connection in [*connections.to_monitors.items(), *connections.from_ranks.items()]:
            self._selector.register(connection, selectors.EVENT_READ, (connection, rank))

    def finish(self, status: Status) -> None:
        """Send the final status and end the thread."""
        self._final_status = status
        self._waker.send(b"!")
        self.join(_JOIN_TIMEOUT_S)

    def run(self) -> None:
        try:
            self._watch()
        except BaseException:  # an unwatched run could hang
            abort(f"the watchdog of rank {self._activity.rank} failed\n{format_exc()}")

    def _watch(self) -> None:
        due = time.monotonic()
        while self._final_status is None:
            events = self._selector.select(max(0.0, due - time.monotonic()))
            ended = [self._read(*key.data) for key, _ in events if key.data is not None]
            if any(ended) or time.monotonic() >= due:
                due = time.monotonic() + INTERVAL_S
                self._send_heartbeat(Status.ALIVE)
                self._check()
        self._send_heartbeat(self._final_status)
        to_monitors, from_ranks, _ = self._connections
        for connection in [*to_monitors.values(), *from_ranks.values()]:
            connection.close()

    def _check(self) -> None:
        check_time = time.monotonic()
        for rank in self._detector.stopped_ranks(check_time) if self._kill_stopped else []:
            if self._connections.processes[rank].end():
                self._detector.disconnect(rank)
        bound = stall_bound(self._stall_timeout, tuple(self._activity.step_s))
        message = self._detector.diagnose(check_time, bound)
        if message and self._final_status is None:
            self._send_heartbeat(Status.REPORTED)
            abort(message)

    def _send_heartbeat(self, status: Status) -> None:
        """Send a heartbeat to all monitors; a final status, on a monitor, to all ranks."""
        action = self._activity.current
        action = action._replace(since=time.perf_counter() - action.since)
        heartbeat = Heartbeat(status, self._activity.rank, action)
        self._detector.receive(heartbeat, time.monotonic())
        connections = [*self._connections.to_monitors.values()]
        if status is not Status.ALIVE:
            connections += self._connections.from_ranks.values()
        for connection in connections:
            with suppress(OSError):  # full or closed: the next read shows which
                connection.send(heartbeat.pack())

    def _read(self, connection: socket.socket, rank: int) -> bool:
        """Process the data that has arrived; return True if the connection has ended."""
        try:
            data = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            self._detector.disconnect(rank)
            return True
        data = self._unparsed.pop(connection, b"") + data
        complete = len(data) - len(data) % SIZE_BYTES
        self._unparsed[connection] = data[complete:]
        for start in range(0, complete, SIZE_BYTES):
            heartbeat = Heartbeat.unpack(data[start : start + SIZE_BYTES])
            self._detector.receive(heartbeat, time.monotonic())
        return False
