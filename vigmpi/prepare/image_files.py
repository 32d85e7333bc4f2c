from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vigmpi.datasets.dataset import Pixels
from vigmpi.datasets.decoding import decode_with_size
from vigmpi.datasets.file_tree import UnreadableError, file_error, listed, printable
from vigmpi.datasets.listing import list_images
from vigmpi.errors import InputError
from vigmpi.host import num_cores
from vigmpi.phase import Phase
from vigmpi.prepare.members import members
from vigmpi.prepare.source import ImageBatch, Source
from vigmpi.worker_pool import worker_pool

_BATCH_FILES = 64  # limits of the batch that a worker decodes at a time
_BATCH_BYTES = 2**22
_AFTER_DEATH = (
    "Remove this file or the damaged one among those after it, unless the memory has run out."
)


class _Place(NamedTuple):
    phase: Phase
    row: int


class _Decoded(NamedTuple):
    """Pixels and the size that they were resized from, or what is wrong with the file."""

    pixels: Pixels | None
    size: tuple[int, int]
    problem: str


class ImageFiles(Source):
    """Image files in class folders, decoded on all cores.

    Args:
        entries: name of each member of the source and whether it is a folder.
        test_share: fraction of each class's images to test on; 0 if the folders tell.
    """

    def __init__(
        self, path: Path, entries: list[tuple[str, bool]], image_size: int, test_share: float
    ) -> None:
        super().__init__()
        self._path = path
        self._size = image_size, image_size
        listing = list_images(entries, path, test_share)
        self.class_names, self.remarks = listing.class_names, listing.remarks
        self.num_images = {phase: len(files) for phase, files in listing.files.items()}
        self._labels = {p: np.array(labels, np.int64) for p, labels in listing.labels.items()}
        self._readable = {phase: np.zeros(count, bool) for phase, count in self.num_images.items()}
        self._places = {
            name: _Place(phase, row)
            for phase in Phase
            for row, name in enumerate(listing.files[phase])
        }

    def read(self) -> Iterator[ImageBatch]:
        batches = -(-sum(self.num_images.values()) // _BATCH_FILES)
        workers = min(num_cores(), batches)
        pending: deque[tuple[list[str], Future[list[_Decoded]]]] = deque()
        # Decoding of small images is dominated by Python code: for 32x32 pixels, two threads
        # reached 0.85 times and two processes 2.2 times the speed of one.
        with worker_pool(workers, "decodes all images") as pool:
            for contents in self._contents():
                if len(pending) > 2 * workers:
                    yield from self._decoded(*pending.popleft())
                try:
                    future = pool.submit(_decode, contents, self._size)
                except BrokenProcessPool:
                    break  # `pending` holds the batch of which a process died
                pending.append((list(contents), future))
            while pending:
                yield from self._decoded(*pending.popleft())
        self.unreadable.sort()
        self._check_classes()

    def _contents(self) -> Iterator[dict[str, bytes]]:
        """Yield the encoded files by name, one worker's batch at a time."""
        batch: dict[str, bytes] = {}
        for member in members(self._path):
            if member.read is None or member.name not in self._places:
                continue
            try:
                batch[member.name] = member.read()
            except UnreadableError as error:
                self.unreadable.append(error.problem)
            if len(batch) == _BATCH_FILES or sum(map(len, batch.values())) > _BATCH_BYTES:
                yield batch
                batch = {}
        if batch:
            yield batch

    def _decoded(self, names: list[str], future: "Future[list[_Decoded]]") -> Iterator[ImageBatch]:
        try:
            images = future.result()
        except BrokenProcessPool as error:
            raise file_error("decoder process died", names[0], _AFTER_DEATH) from error
        self.unreadable.extend(image.problem for image in images if image.pixels is None)
        self.sizes.update(image.size for image in images if image.pixels is not None)
        for phase in Phase:
            selected = [
                (self._places[name].row, image.pixels)
                for name, image in zip(names, images, strict=True)
                if image.pixels is not None and self._places[name].phase is phase
            ]
            if selected:
                rows = np.array([row for row, _ in selected])
                pixels = np.array([pixels for _, pixels in selected])
                self._readable[phase][rows] = True
                yield ImageBatch(phase, rows, self._labels[phase][rows], pixels)

    def _check_classes(self) -> None:
        for phase, labels in self._labels.items():
            counts = np.bincount(labels[self._readable[phase]], minlength=len(self.class_names))
            if empty := [printable(self.class_names[i]) for i in np.flatnonzero(counts == 0)]:
                raise InputError(
                    f"no readable {phase} image of a class: {listed(empty)}; unreadable: "
                    f"{listed(self.unreadable)}. Replace these images, or remove the class."
                )


def _decode(contents: dict[str, bytes], size: tuple[int, int]) -> list[_Decoded]:
    return [_decode_one(content, name, size) for name, content in contents.items()]


def _decode_one(content: bytes, name: str, size: tuple[int, int]) -> _Decoded:
    try:
        return _Decoded(*decode_with_size(content, name, size), "")
    except UnreadableError as error:
        return _Decoded(None, (0, 0), error.problem)
