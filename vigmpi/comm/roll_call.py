import platform
import threading
from enum import IntEnum
from types import TracebackType
from typing import Self

import numpy as np
from mpi4py import MPI

from vigmpi.comm.waiting import wait
from vigmpi.comm.world import abort
from vigmpi.errors import InputError
from vigmpi.start_limit import StartLimit

_NAME_BYTES = 64  # of a host, on Linux
_LEAD_S = 0.5  # before the helper process prints what it knows, which is less
_PROBES = 100  # a single probe may miss a message that has arrived


class Point(IntEnum):
    """Points of start-up behind MPI_Init, in their order; a message's tag."""

    MPI = 1
    IMPORTS = 2
    CONFIGURATION = 3


_SIGNS = {
    Point.MPI: "ranks",
    Point.IMPORTS: "the program after MPI has started",
    Point.CONFIGURATION: "the configuration's arrival",
}


class RollCall:
    """Context in which rank 0 knows which ranks have reached each point of start-up.

    When the time limit is about to pass, it names those that have not, and aborts.
    """

    def __init__(self, world: MPI.Intracomm, limit: StartLimit) -> None:
        self._world, self._limit = world, limit
        name = platform.node().encode(errors="replace")[:_NAME_BYTES]
        self._name = np.frombuffer(name.ljust(_NAME_BYTES, b"\0"), np.uint8)
        self._reached: list[Point] = []
        self._sent: list[MPI.Request] = []
        self._timer: threading.Timer | None = None
        if world.rank == 0 and MPI.Query_thread() >= MPI.THREAD_MULTIPLE:
            delay_s = max(0.0, limit.remaining_s - _LEAD_S)
            self._timer = threading.Timer(delay_s, self._name_missing_ranks)
            self._timer.daemon = True
            self._timer.start()
        self.reached(Point.MPI)

    def __enter__(self) -> Self:
        return self

    def reached(self, point: Point) -> None:
        """Report that this rank has reached a point."""
        self._reached.append(point)
        if self._world.rank > 0:
            self._sent.append(self._world.Isend(self._name, 0, point))

    def end(self) -> None:
        """Lift the limit; all ranks must have reached the points of this one."""
        if self._timer:
            self._timer.cancel()
            self._timer.join()
        self._limit.end()
        name = np.empty_like(self._name)
        for point in self._reached if self._world.rank == 0 else ():
            for rank in range(1, self._world.size):
                self._world.Recv(name, rank, point)
        MPI.Request.Waitall(self._sent)
        self._reached.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, InputError) and self._reached:  # all ranks raise it
            wait(self._world.Ibarrier())
            self.end()

    def _name_missing_ranks(self) -> None:
        for point, sign in _SIGNS.items():
            if missing := [r for r in range(self._world.size) if not self._has_reached(r, point)]:
                names = ", ".join(self._describe(rank, point) for rank in missing)
                problem = f"no sign of {sign} within {self._limit.seconds:g} s: {names}"
                break
        else:
            problem = (
                f"not connected within {self._limit.seconds:g} s: all ranks "
                f"({self._world.size}) have started"
            )
        self._limit.silence_helper()
        abort(f"{problem}. Check what these ranks wait for, or use --start-timeout SECONDS.\n")

    def _has_reached(self, rank: int, point: Point) -> bool:
        if rank == 0:
            return point in self._reached
        return any(self._world.Iprobe(rank, point) for _ in range(_PROBES))

    def _describe(self, rank: int, point: Point) -> str:
        if point is Point.MPI:
            return f"rank {rank}"
        name = self._name.copy()
        if rank > 0:
            self._world.Recv(name, rank, Point.MPI)
        return f"rank {rank} on {name.tobytes().rstrip(bytes(1)).decode(errors='replace')}"
