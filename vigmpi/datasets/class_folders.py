import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote

import numpy as np

from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels, Progress, scaled
from vigmpi.datasets.decoding import decode, size_of
from vigmpi.datasets.file_tree import (
    UnreadableError,
    listed,
    open_file,
    printable,
    read_file,
    unreadable,
    walk,
)
from vigmpi.datasets.listing import LAYOUT, Listing, list_images
from vigmpi.errors import InputError, error_reason
from vigmpi.phase import Phase


class ClassFolders(Dataset):
    """Image files of equal size in class folders, each decoded whenever it is needed.

    Rank 0 lists the files and reads their headers, and its list is the index of all ranks. A host
    that sees another folder than rank 0 lists its own files and compares their names. If sizes
    differ or decoding limits the speed of training, convert the images with `vigmpi prepare`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder
        self._test_share = 0.0

    @property
    def identity(self) -> str:
        names = "\0".join(name for phase in Phase for name in self._files[phase])
        return f"{super().identity} {hashlib.sha256(names.encode(errors='replace')).hexdigest()}"

    def set_test_share(self, share: float) -> None:
        self._test_share = share

    def prepare(self, *, download: bool, progress: Progress) -> None:  # noqa: ARG002
        """List all files and check that they are images of one size.

        Later, one that is not would stop a single rank.
        """
        if not self.index:
            listing = self._list(progress)
            size = self._common_size(listing, progress)
            values = {"folder": self._inode(), "size": size, "listing": asdict(listing)}
            self.index = json.dumps(values).encode()
        elif not self._has_indexed_files(progress):
            raise InputError(
                f"images differ between hosts: --data-dir {self._folder}. Use a folder that all "
                f"hosts share, or copy the same files to each host."
            )

    def load(self, *, images: bool, labels: bool) -> None:  # noqa: ARG002 (files are read later)
        listing, self.image_size = self._indexed()
        self.class_names, self._files = listing.class_names, listing.files
        self._labels = {p: np.array(classes, np.int64) for p, classes in listing.labels.items()}
        self.num_images = {phase: len(files) for phase, files in listing.files.items()}
        height, width = self.image_size
        texts = [f"{self.num_classes} classes, {height}x{width} pixels", *listing.remarks]
        self.details = f"{self._folder}/: {'; '.join(texts)}"

    def images(self, phase: Phase, samples: Indices) -> Images:
        pixels = np.empty((len(samples), 3, *self.image_size), np.uint8)
        for image, sample in zip(pixels, samples.tolist(), strict=True):
            name = self._files[phase][sample]
            decoded = decode(read_file(self._folder / name, name), name)
            if decoded.shape != image.shape:
                raise unreadable(name, "its size has changed")
            image[:] = decoded
        return scaled(pixels)

    def labels(self, phase: Phase, samples: Indices) -> Labels:
        return self._labels[phase][samples]

    def _list(self, progress: Progress) -> Listing:
        entries = []
        try:
            for member in walk(self._folder):
                entries.append((member.name, member.is_folder))
                progress(len(entries), 0)
        except OSError as error:
            raise InputError(
                f"cannot read the data set: {error.filename} ({error_reason(error)}). Use "
                f"--data-dir with a folder in {LAYOUT} or a file written by vigmpi prepare."
            ) from error
        return list_images(entries, self._folder, self._test_share)

    def _has_indexed_files(self, progress: Progress) -> bool:
        if self._inode() == json.loads(self.index)["folder"]:
            return True  # the folder that rank 0 listed
        return self._list(progress).files == self._indexed()[0].files

    def _inode(self) -> list[int]:
        """Return what tells this folder from a copy on another host; empty if it is not there."""
        with suppress(OSError):
            status = self._folder.stat()
            return [status.st_ino, status.st_mtime_ns]
        return []

    def _common_size(self, listing: Listing, progress: Progress) -> tuple[int, int]:
        names = [name for phase in Phase for name in listing.files[phase]]
        first: dict[tuple[int, int], str] = {}  # of each size
        problems = []
        for done, name in enumerate(names, 1):
            try:
                with open_file(self._folder / name, name) as file:
                    first.setdefault(size_of(file, name), name)
            except UnreadableError as error:
                problems.append(error.problem)
            progress(done, len(names))
        share = f" --test-share {self._test_share:g}" if self._test_share else ""
        command = f"vigmpi prepare {quote(str(self._folder))}{share}"
        if problems:
            raise InputError(
                f"cannot read {len(problems):,} of {len(names):,} images: {listed(problems)}. "
                f"Remove them, or run {command} --skip-unreadable."
            )
        if len(first) > 1:
            by_area = sorted(first, key=lambda size: size[0] * size[1])
            (small, *_), large = by_area, by_area[-1]
            texts = [f"{h}x{w} pixels ({printable(first[h, w])})" for h, w in (small, large)]
            raise InputError(
                f"images differ in size: {' to '.join(texts)}. Run {command} --image-size 64 to "
                f"resize them."
            )
        return next(iter(first))

    def _indexed(self) -> tuple[Listing, tuple[int, int]]:
        """Return what `prepare` found on rank 0."""
        values = json.loads(self.index)
        height, width = values["size"]
        return Listing.from_dict(values["listing"]), (height, width)
