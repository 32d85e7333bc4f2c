from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from vigmpi.comm.waiting import wait


class GradientSum:
    """In-place all-reduce of each bucket of gradients over the replicas, beside the backward pass.

    Every rank of `replicas` must start all buckets of a step in the same order. A bucket's size
    does not depend on the layout, and so neither does the order in which MPI adds.
    """

    def __init__(self, replicas: MPI.Intracomm, buckets: Sequence[np.ndarray]) -> None:
        self._replicas = replicas
        self._buckets = buckets
        self._requests: dict[int, MPI.Request] = {}

    def start(self, bucket: int) -> None:
        """Start the all-reduce of a bucket that is complete."""
        values = self._buckets[bucket]
        self._requests[bucket] = self._replicas.Iallreduce(MPI.IN_PLACE, values, op=MPI.SUM)

    def finish(self) -> None:
        """Start the remaining all-reduces (a replica may have no micro-batch) and wait for all."""
        for bucket in reversed(range(len(self._buckets))):
            if bucket not in self._requests:
                self.start(bucket)
        wait(*self._requests.values())
        self._requests.clear()
