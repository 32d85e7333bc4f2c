import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from vigmpi.datasets.dataset import Pixels
from vigmpi.datasets.decoding import decode
from vigmpi.datasets.listing import list_images, refusal
from vigmpi.errors import InputError
from vigmpi.phase import Phase
from vigmpi.prepare.members import members
from vigmpi.prepare.source import ImageBatch, Source

_AT_ONCE = 64  # images, or
_AT_ONCE_BYTES = 2**22  # what a process is given at a time
_PR_SET_PDEATHSIG = 1  # of prctl.h


class ImageFiles(Source):
    """Image files in class folders, decoded on all cores.

    By processes: of a small image's decoding Python does so much that threads are no faster than
    one (measured: two threads 0.85 times, two processes 2.2 times as fast as one of 32x32 pixels).

    Args:
        names: of all members, and which are folders.
    """

    def __init__(self, path: Path, names: list[tuple[str, bool]], image_size: int) -> None:
        self._path = path
        self._size = image_size, image_size
        self._listing = listing = list_images(names, path)
        self.class_names = listing.class_names
        self.samples = {phase: len(files) for phase, files in listing.files.items()}
        self._places = {
            name: (phase, row) for phase in Phase for row, name in enumerate(listing.files[phase])
        }

    def read(self) -> Iterator[ImageBatch]:
        portions = -(-sum(self.samples.values()) // _AT_ONCE)
        processes = min(len(os.sched_getaffinity(0)), portions)
        under_way: deque[tuple[list[str], Future[list[Pixels]]]] = deque()
        with ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), initializer=_end_with_parent
        ) as pool:
            try:
                for contents in self._portions():
                    if len(under_way) > 2 * processes:
                        yield from self._finished(*under_way.popleft())
                    under_way.append((list(contents), pool.submit(_decode, contents, self._size)))
                while under_way:
                    yield from self._finished(*under_way.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _portions(self) -> Iterator[dict[str, bytes]]:
        """Files by name, as many as a process is given at a time."""
        portion: dict[str, bytes] = {}
        for member in members(self._path):
            if member.read is None or member.name not in self._places:
                continue
            portion[member.name] = member.read()
            if len(portion) == _AT_ONCE or sum(map(len, portion.values())) > _AT_ONCE_BYTES:
                yield portion
                portion = {}
        if portion:
            yield portion

    def _finished(self, names: list[str], future: "Future[list[Pixels]]") -> Iterator[ImageBatch]:
        try:
            images = future.result()
        except BrokenProcessPool as error:
            reason = "or one of the files after it ended the process that decoded it; type: rm it"
            raise InputError(refusal(names[0], reason)) from error
        for phase in Phase:
            mine = [i for i, name in enumerate(names) if self._places[name][0] is phase]
            if mine:
                rows = np.array([self._places[names[i]][1] for i in mine])
                pixels = np.array([images[i] for i in mine])
                yield ImageBatch(phase, rows, self._listing.labels[phase][rows], pixels)


def _decode(contents: dict[str, bytes], size: tuple[int, int]) -> list[Pixels]:
    return [decode(content, name, size) for name, content in contents.items()]


def _end_with_parent() -> None:
    """A process of the pool outlives no kill -9 of its parent, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
