"""Messages of any number of batches, whose sizes the receiver does not know beforehand.

The receives are posted ahead and are the sender's credits: a synchronous send completes once its
receive has been posted, so that a slow stage holds back those before it. A message without images
is the last one.
"""

from collections import deque

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from vigmpi.comm.buffers import aligned
from vigmpi.comm.waiting import wait

SLOTS = 2  # messages under way on a link
_TAG, _ANSWER_TAG = 1, 2


class StreamReceiver:
    """Receiving end of a link.

    Args:
        source: rank of the sender in `comm`.
        shape: shape of one image's values.
        max_images: number of images in the largest message.
    """

    def __init__(
        self, comm: MPI.Comm, source: int, shape: tuple[int, ...], dtype: DTypeLike, max_images: int
    ) -> None:
        self._comm = comm
        self._source = source
        self._buffers = [aligned((max_images, *shape), dtype) for _ in range(SLOTS)]
        self._requests = [self._posted(buffer) for buffer in self._buffers]
        self._slot = 0

    def receive(self) -> np.ndarray:
        """Return the next message, [images, *shape]; valid until `release`."""
        status = MPI.Status()
        wait(self._requests[self._slot], statuses=[status])
        buffer = self._buffers[self._slot]
        return buffer[: status.Get_count(MPI.BYTE) // buffer[:1].nbytes]

    def release(self) -> None:
        """Free the buffer of the last message for a later one."""
        self._requests[self._slot] = self._posted(self._buffers[self._slot])
        self._slot = (self._slot + 1) % SLOTS

    def close(self) -> None:
        """Cancel the receives after the last message."""
        for request in self._requests:
            if request != MPI.REQUEST_NULL:
                request.Cancel()
                request.Wait()

    def _posted(self, buffer: np.ndarray) -> MPI.Request:
        return self._comm.Irecv(buffer, self._source, _TAG)


class StreamSender:
    """Sending end of a link.

    Args:
        dest: rank of the receiver in `comm`.
        shape: shape of one image's values.
        max_images: number of images in the largest message.
    """

    def __init__(
        self, comm: MPI.Comm, dest: int, shape: tuple[int, ...], dtype: DTypeLike, max_images: int
    ) -> None:
        self._comm = comm
        self._dest = dest
        self._buffers = [aligned((max_images, *shape), dtype) for _ in range(SLOTS)]
        self._requests = [MPI.REQUEST_NULL] * SLOTS
        self._slot = 0

    def wait_for_buffer(self) -> None:
        """Wait until fewer than `SLOTS` messages are under way."""
        wait(self._requests[self._slot])

    def send(self, values: np.ndarray) -> None:
        """Start the send of a copy of values [images, *shape]; without images, end the stream."""
        self.wait_for_buffer()
        buffer = self._buffers[self._slot][: len(values)]
        np.copyto(buffer, values, casting="no")
        self._requests[self._slot] = self._comm.Issend(buffer, self._dest, _TAG)
        self._slot = (self._slot + 1) % SLOTS

    def finish(self) -> None:
        """End the stream and wait until all sends have completed."""
        self.send(self._buffers[self._slot][:0])
        wait(*self._requests)


class AnswerSender:
    """Sender of numbers of answered requests and times, which never waits for the receiver.

    Args:
        dest: rank of the receiver in `comm`.
    """

    def __init__(self, comm: MPI.Comm, dest: int) -> None:
        self._comm = comm
        self._dest = dest
        self._pending: deque[tuple[np.ndarray, MPI.Request]] = deque()

    def send(self, number: int, time: float) -> None:
        while self._pending and self._pending[0][1].Test():
            self._pending.popleft()
        message = np.array([number, time])
        request = self._comm.Isend(message, self._dest, _ANSWER_TAG)
        self._pending.append((message, request))

    def finish(self) -> None:
        """Wait until all sends have completed."""
        wait(*(request for _, request in self._pending))


class AnswerReceiver:
    """Receiver of answers.

    Args:
        source: rank of the sender in `comm`.
    """

    def __init__(self, comm: MPI.Comm, source: int) -> None:
        self._comm = comm
        self._source = source
        self._received = 0

    def poll(self) -> tuple[int, float] | None:
        """Return the next number and time, if there is one."""
        return self._receive() if self._comm.Iprobe(self._source, _ANSWER_TAG) else None

    def receive_all(self, number: int) -> None:
        """Receive all answers to this many requests."""
        while self._received < number:
            self._receive()

    def _receive(self) -> tuple[int, float]:
        message = np.empty(2)
        wait(self._comm.Irecv(message, self._source, _ANSWER_TAG))
        self._received += int(message[0])
        return int(message[0]), float(message[1])
