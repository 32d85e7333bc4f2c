import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import format_exc

from mpi4py import MPI

from vigmpi.comm.waiting import wait
from vigmpi.comm.world import abort
from vigmpi.errors import InputError, RunError
from vigmpi.host import end_process
from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import Activity
from vigmpi.monitor.connections import Connections, connect_monitors
from vigmpi.monitor.failure_detector import FailureDetector, monitors, stall_bound
from vigmpi.monitor.heartbeat import INTERVAL_S, SIZE_BYTES, Heartbeat, Status

_LAST_WORD_S = 2.0
_CAUSE_S = 1.0  # for a detector to end the run, where MPI failed because another rank died
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
    """End the run, and say why, where a rank dies, stops or doesn't get on. Collective.

    A thread on each rank sends a sign of life a second to the ranks that detector; it works while
    the main thread waits in MPI. Leaving the block without an error waits for all ranks.

    Args:
        activity: what this rank's main thread is doing.
        heartbeat_timeout: a rank without a sign for so long counts as stopped.
        stall_timeout: some rank must get on within so long; None: as `stall_bound` has it.
        mpi_reports_failures: leave ranks that died to MPI, which tells of them; make those that stopped on
            the detector's host such ones.
    """
    connections = connect_monitors(world, monitors(world.size))
    if connections is None:
        if world.rank == 0:
            print("warning: no watchdog: some ranks can't connect over TCP", file=sys.stderr)
        yield
        return
    detector = FailureDetector(
        world.rank,
        layout,
        connections.processes,
        heartbeat_timeout,
        time.monotonic(),
        tolerate_loss=mpi_reports_failures,
    )
    thread = _Watchdog(
        connections, detector, activity, stall_timeout, mpi_reports_failures=mpi_reports_failures
    )
    thread.start()
    final_status = Status.REPORTED  # by whoever catches the error
    try:
        yield
        with activity("end"), suppress(*[MPI.Exception] * mpi_reports_failures):
            wait(world.Ibarrier())
        final_status = Status.SHUTDOWN
    except (InputError, RunError):  # on all ranks alike
        final_status = Status.SHUTDOWN
        raise
    except MPI.Exception:
        if not mpi_reports_failures:
            time.sleep(_CAUSE_S)
        raise
    finally:
        thread.leave(final_status)


class _Watchdog(threading.Thread):
    def __init__(
        self,
        connections: Connections,
        detector: FailureDetector,
        activity: Activity,
        stall_timeout: float | None,
        *,
        mpi_reports_failures: bool,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._connections = connections
        self._detector = detector
        self._activity = activity
        self._stall_timeout = stall_timeout
        self._mpi_tells = mpi_reports_failures
        self._unread: dict[socket.socket, bytes] = {}
        self._final_status: Status | None = None
        self._wake, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        for rank, connection in [*connections.to_monitors.items(), *connections.from_ranks.items()]:
            self._selector.register(connection, selectors.EVENT_READ, (connection, rank))

    def leave(self, status: Status) -> None:
        """Say a last status to the monitors, and end the thread."""
        self._final_status = status
        self._waker.send(b"!")
        self.join(_LAST_WORD_S)

    def run(self) -> None:
        try:
            self._watch()
        except BaseException:  # unwatched, a run could hang
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
        for connection in [
            *self._connections.to_monitors.values(),
            *self._connections.from_ranks.values(),
        ]:
            connection.close()

    def _check(self) -> None:
        now = time.monotonic()
        for rank in self._detector.stopped(now) if self._mpi_tells else []:
            if end_process(self._connections.processes[rank]):
                self._detector.lose(rank)
        bound = stall_bound(self._stall_timeout, tuple(self._activity.step_s))
        message = self._detector.diagnose(now, bound)
        if message and self._final_status is None:
            self._send_heartbeat(Status.REPORTED)
            abort(message)

    def _send_heartbeat(self, status: Status) -> None:
        """To the monitors, this rank's own among them; a last status to all that listen."""
        now = self._activity.now
        heartbeat = Heartbeat(
            status, self._activity.rank, now._replace(since=time.perf_counter() - now.since)
        )
        self._detector.hear(heartbeat, time.monotonic())
        connections = [*self._connections.to_monitors.values()]
        if status is not Status.ALIVE:
            connections += self._connections.from_ranks.values()
        for connection in connections:
            with suppress(OSError):  # full, or gone: the next read tells
                connection.send(heartbeat.pack())

    def _read(self, connection: socket.socket, rank: int) -> bool:
        """Take what has come; whether the connection has ended."""
        try:
            data = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            self._detector.lose(rank)
            return True
        data = self._unread.pop(connection, b"") + data
        whole = len(data) - len(data) % SIZE_BYTES
        self._unread[connection] = data[whole:]
        for start in range(0, whole, SIZE_BYTES):
            heartbeat = Heartbeat.unpack(data[start : start + SIZE_BYTES])
            self._detector.hear(heartbeat, time.monotonic())
        return False
