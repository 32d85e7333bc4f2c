import ctypes
import errno
import os
from contextlib import suppress
from math import prod
from pathlib import Path

import h5py

from vigmpi.datasets.prepared_header import FORMAT
from vigmpi.errors import InputError
from vigmpi.hdf5_strings import fixed_string
from vigmpi.phase import Phase

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RowFile:
    """The rows of a prepared file, for which it has room from the beginning.

    Args:
        num_images: number of images in each phase.
        size: height and width, in pixels.
        beside: bytes of another file that may still be unwritten.

    Raises:
        InputError: if there is not enough room.
        OSError: if the file cannot be made.
    """

    def __init__(
        self, path: Path, num_images: dict[Phase, int], size: tuple[int, int], beside: int = 0
    ) -> None:
        self.path = path
        self._row_bytes = {"images": 3 * prod(size), "labels": 8}
        try:
            self._offsets = _create(path, num_images, size)
            self._descriptor = os.open(path, os.O_RDWR)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        try:
            self._reserve(beside)
        except BaseException:
            self.remove()
            raise

    def write(self, phase: Phase, name: str, row: int, content: bytes | memoryview) -> None:
        """Write a row of images or labels."""
        offset = self._offset(phase, name, row)
        while content:  # fewer bytes may be written than given
            written = os.pwrite(self._descriptor, content, offset)
            content, offset = content[written:], offset + written

    def read(self, phase: Phase, name: str, row: int) -> bytes:
        offset = self._offset(phase, name, row)
        return os.pread(self._descriptor, self._row_bytes[name], offset)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # of what was not synchronized
            os.close(self._descriptor)

    def _offset(self, phase: Phase, name: str, row: int) -> int:
        return self._offsets[phase, name] + row * self._row_bytes[name]

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _reserve(self, beside: int) -> None:
        needed = self.size_bytes
        file_system = os.statvfs(self.path.parent)
        free = file_system.f_bavail * file_system.f_frsize
        problem = _allocate(self._descriptor, needed)
        if problem not in _NO_ROOM and problem and needed + beside > free:
            problem = errno.ENOSPC  # as far as a file system tells that cannot reserve space
        if problem in _NO_ROOM:
            raise InputError(
                f"not enough room: {needed / 2**20:,.1f} MiB for {self.path.parent}/ "
                f"({os.strerror(problem)}; {free / 2**20:,.1f} MiB are free). Use --output FILE on "
                f"another disk, or a smaller --image-size."
            )


def _allocate(descriptor: int, size_bytes: int) -> int:
    """Reserve space for a file and return the number of the error, or 0.

    posix_fallocate writes to every block if the file system cannot reserve space.
    """
    allocate = ctypes.CDLL(None, use_errno=True).fallocate
    allocate.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
    return ctypes.get_errno() if allocate(descriptor, 0, 0, size_bytes) else 0


def _create(
    path: Path, num_images: dict[Phase, int], size: tuple[int, int]
) -> dict[tuple[Phase, str], int]:
    """Create a file with space for all rows and return the offset of each dataset.

    HDF5 1.10 is the first format in which all of HDF5's metadata carries checksums.
    """
    offsets = {}
    with h5py.File(path, "x", locking=False, libver=("v110", "v110")) as file:
        file.attrs["format"] = fixed_string(FORMAT)
        for phase, count in num_images.items():
            for name, shape, dtype, description in (
                ("images", (count, 3, *size), "u1", "[images, RGB, height, width]"),
                ("labels", (count,), "<i8", "class of each image"),
            ):
                early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                early.set_obj_track_times(False)
                data = file.create_dataset(f"{phase}/{name}", shape, dtype, dcpl=early)
                data.attrs["description"] = fixed_string(description)
                offsets[phase, name] = data.id.get_offset()
    return offsets
