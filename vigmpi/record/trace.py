import numpy as np

from vigmpi.comm.clock import compare_clocks
from vigmpi.comm.collectives import allgather_rows
from vigmpi.comm.topology import Topology
from vigmpi.record.spans import COLUMNS, Span

KINDS = tuple(map(str, COLUMNS))
_WIDTH = 4  # kind, micro-batch, start, end


class Trace:
    """Collector of all ranks' spans, by rank 0's clock. All its methods are collective.

    Args:
        chunks: maximum number of micro-batches in a replica's mini-batch.
        mini_batches: number of mini-batches that the run completed before the trace begins.

    Attributes:
        clock: offsets of the ranks' clocks and their error bounds.
    """

    def __init__(self, topology: Topology, chunks: int, mini_batches: int = 0) -> None:
        self._world = topology.world
        self._buffer = np.empty((6 * chunks + len(KINDS), _WIDTH))
        self.clock = compare_clocks(self._world)
        self._origin: float | None = None
        self._mini_batches = mini_batches

    def gather(self, spans: list[Span]) -> np.ndarray:
        """Return all ranks' spans of a mini-batch, [spans, len(TRACE)]."""
        self._buffer[:] = np.nan
        for row, span in zip(self._buffer, spans, strict=False):
            row[:] = KINDS.index(span.kind), span.micro_batch, span.start, span.end
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
