import platform
import threading
from enum import IntEnum
from types import TracebackType
from typing import Self

import numpy as np
from mpi4py import MPI

from vigmpi.comm.world import abort
from vigmpi.errors import InputError, RunError
from vigmpi.start_limit import StartLimit

_NAME_BYTES = 64  # of a host, on Linux


class Point(IntEnum):
    """Points of start-up behind MPI_Init, in their order; a message's tag."""

    MPI = 1
    IMPORTS = 2
    CONFIGURATION = 3


_POINTS = {
    Point.MPI: "ranks",
    Point.IMPORTS: "the program after MPI has started",
    Point.CONFIGURATION: "the configuration's arrival",
}


class RollCall:
    """Context in which rank 0 knows which ranks have reached each point of start-up.

    When the time limit passes, it names those that have not. Rank 0's helper process, which knows
    nothing of the others, falls silent.
    """

    def __init__(self, world: MPI.Intracomm, limit: StartLimit) -> None:
        self._world, self._limit = world, limit
        self._name = np.zeros(_NAME_BYTES, np.uint8)
        name = platform.node().encode()[:_NAME_BYTES]
        self._name[: len(name)] = bytearray(name)
        self._reached: list[Point] = []
        self._sent: list[MPI.Request] = []
        self._timer: threading.Timer | None = None
        if world.rank == 0:
            limit.silence_helper()
            self._timer = threading.Timer(limit.remaining_s, self._name_missing_ranks)
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
        """Lift the limit, once all ranks are known to have reached all points of this rank."""
        self._limit.end()
        if self._timer:
            self._timer.cancel()
            self._timer.join()
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
        if isinstance(error, InputError | RunError):  # raised on all ranks
            self.end()

    def _name_missing_ranks(self) -> None:
        for point, description in _POINTS.items():
            missing = [r for r in range(1, self._world.size) if not self._world.Iprobe(r, point)]
            if missing:
                names = ", ".join(self._describe(rank, point) for rank in missing)
                problem = f"no sign of {description} within {self._limit.seconds:g} s: {names}"
                break
        else:
            problem = f"ranks are not connected within {self._limit.seconds:g} s: all have started"
        abort(f"{problem}. Check these hosts, or use --start-timeout SECONDS.\n")

    def _describe(self, rank: int, point: Point) -> str:
        if point is Point.MPI:
            return f"rank {rank}"
        name = np.empty_like(self._name)
        self._world.Recv(name, rank, Point.MPI)
        return f"rank {rank} on {name.tobytes().rstrip(bytes(1)).decode()}"
