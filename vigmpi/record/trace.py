from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from vigmpi.comm.clock import compare_clocks
from vigmpi.comm.collectives import allgather_rows
from vigmpi.record.timings import Span, timed_kinds
from vigmpi.schedule.action import Kind

_WIDTH = 4  # kind, micro-batch, start, end


class Trace:
    """Collector of all ranks' spans, by rank 0's clock. All its methods are collective.

    Args:
        num_actions: largest number of a schedule's actions in a step of any stage.
        mini_batches: number of mini-batches that the run completed before the trace begins.

    Attributes:
        clock: offsets of the ranks' clocks and their error bounds.
    """

    def __init__(self, world: MPI.Intracomm, num_actions: int, mini_batches: int = 0) -> None:
        self._world = world
        self._kinds = {kind: number for number, kind in enumerate(timed_kinds())}
        num_spans = num_actions + len(self._kinds.keys() - set(Kind))
        self._buffer = np.empty((num_spans, _WIDTH))
        self.clock = compare_clocks(world)
        self._origin: float | None = None
        self._mini_batches = mini_batches

    def gather(self, spans: Sequence[Span]) -> np.ndarray:
        """Return all ranks' spans of a mini-batch, [spans, len(TRACE)]."""
        self._buffer[:] = np.nan
        self._buffer[: len(spans)] = [
            (self._kinds[span.kind], span.micro_batch, span.start, span.end) for span in spans
        ]
        rows = allgather_rows(self._world, self._buffer)
        rows[:, :, 2:] -= self.clock.offset[:, None, None]
        if self._origin is None:
            self._origin = np.nanmin(rows[:, :, 2])
        rows[:, :, 2:] -= self._origin
        ranks = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape[:2])
        mini_batch = np.full(rows.shape[:2], self._mini_batches)
        self._mini_batches += 1
        table = np.dstack([mini_batch, ranks, rows]).reshape(-1, 2 + _WIDTH)
        return table[~np.isnan(table[:, 2])]

    def drift(self) -> np.ndarray:
        """Return the change of the clocks' offsets since the trace began, in seconds, [ranks]."""
        return compare_clocks(self._world).offset - self.clock.offset
