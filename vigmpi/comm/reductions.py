from collections import deque
from collections.abc import Sequence
from itertools import chain

import numpy as np
from mpi4py import MPI

from vigmpi.comm.buffers import aligned
from vigmpi.comm.waiting import wait
from vigmpi.layout.split import even_sizes


class GradientSum:
    """In-place all-reduce of each bucket of gradients over the replicas, beside the backward pass.

    Every rank of `replicas` must start all buckets of a step in the same order. A bucket's size
    does not depend on the layout, and so neither does the order in which MPI adds, unless MPI
    takes into account which ranks share a host.
    """

    def __init__(self, replicas: MPI.Intracomm, buckets: Sequence[np.ndarray]) -> None:
        self._replicas = replicas
        self._buckets = buckets
        self._requests: dict[int, list[MPI.Request]] = {}

    def start(self, bucket: int) -> None:
        """Start the sum of a bucket that is complete."""
        values = self._buckets[bucket]
        self._requests[bucket] = [self._replicas.Iallreduce(MPI.IN_PLACE, values, op=MPI.SUM)]

    def finish(self) -> None:
        """Start the remaining sums (a replica may have no micro-batch) and wait for all."""
        self._start_remaining()
        wait(*chain.from_iterable(self._requests.values()))
        self._requests.clear()

    def _start_remaining(self) -> None:
        for bucket in reversed(range(len(self._buckets))):
            if bucket not in self._requests:
                self.start(bucket)


class OrderedGradientSum(GradientSum):
    """In-place sum of each bucket in rank order, whose bits do not depend on MPI or on hosts.

    Each rank adds up one slice of a bucket: all ranks exchange their slices, and an all-gather
    returns the sums. The slices are point-to-point messages, so only the all-gathers are
    collectives, and every rank starts those in the order in which the buckets were started: a
    bucket whose slices have arrived waits for the buckets before it. Between `start` and `finish`,
    no other collective may use `replicas`, because ranks start the all-gathers at different times.
    """

    def __init__(self, replicas: MPI.Intracomm, buckets: Sequence[np.ndarray]) -> None:
        super().__init__(replicas, buckets)
        self._slices = [_slices(bucket, replicas.size) for bucket in buckets]
        self._terms = [self._make_terms(slices[replicas.rank]) for slices in self._slices]
        self._exchanges: deque[int] = deque()

    def start(self, bucket: int) -> None:
        """Start the exchange of a bucket that is complete; add up those that have arrived."""
        self._requests[bucket] = self._exchange(bucket)
        self._exchanges.append(bucket)
        while self._exchanges and MPI.Request.Testall(self._requests[self._exchanges[0]]):
            self._add_and_gather(self._exchanges.popleft())

    def finish(self) -> None:
        """Start the remaining sums (a replica may have no micro-batch) and wait for all."""
        self._start_remaining()
        while self._exchanges:
            wait(*self._requests[self._exchanges[0]])
            self._add_and_gather(self._exchanges.popleft())
        super().finish()

    def _make_terms(self, own: np.ndarray) -> list[np.ndarray]:
        """Return the terms of this rank's slice in rank order: itself among receive buffers."""
        rank, size = self._replicas.rank, self._replicas.size
        return [own if peer == rank else aligned(own.shape, own.dtype) for peer in range(size)]

    def _exchange(self, bucket: int) -> list[MPI.Request]:
        comm, slices, terms = self._replicas, self._slices[bucket], self._terms[bucket]
        # Each rank begins with its successor, so that no rank receives from all others at once.
        peers = [(comm.rank + distance) % comm.size for distance in range(1, comm.size)]
        receives = [comm.Irecv(terms[peer], peer, tag=bucket) for peer in peers]
        return receives + [comm.Isend(slices[peer], peer, tag=bucket) for peer in peers]

    def _add_and_gather(self, bucket: int) -> None:
        slices, (total, *others) = self._slices[bucket], self._terms[bucket]
        for term in others:  # numpy's own sum over an axis may add pairwise
            np.add(total, term, out=total)
        np.copyto(slices[self._replicas.rank], total)
        gathered = [self._buckets[bucket], [len(values) for values in slices]]
        self._requests[bucket] = [self._replicas.Iallgatherv(MPI.IN_PLACE, gathered)]


GRADIENT_SUMS = {"allreduce": GradientSum, "ordered": OrderedGradientSum}


def _slices(values: np.ndarray, pieces: int) -> list[np.ndarray]:
    return np.split(values, np.cumsum(even_sizes(len(values), pieces))[:-1])
