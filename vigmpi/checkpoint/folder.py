"""Checkpoints, written by all ranks in parallel and seen only once they are whole."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from mpi4py import MPI

from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.manifest import Manifest, Shard
from vigmpi.comm.collectives import allgather_rows, raise_collectively
from vigmpi.errors import InputError

Tensors = Mapping[str, np.ndarray]


class CheckpointFolder:
    """The checkpoints of a run, in a folder that all ranks see.

    Args:
        keep: how many of the newest are kept.
    """

    def __init__(self, comm: MPI.Comm, folder: Path, keep: int) -> None:
        self._comm = comm
        self._folder = folder
        self._keep = keep

    def begin(self, *, overwrite: bool) -> None:
        """Make sure that no other run's checkpoints could be taken for this one's. Collective.

        Raises:
            InputError: there are some, and they are not to be lost.
        """
        with raise_collectively(self._comm), _told(self._folder):
            if self._comm.rank == 0 and (others := list(self._folder.glob("mini-batch-*"))):
                if not overwrite:
                    raise InputError(
                        f"{self._folder} holds checkpoints; type: --resume latest to go on from "
                        f"them, or --overwrite to lose them"
                    )
                for path in others:
                    _retire(path)
                self._sweep()

    def save(self, tensors: Tensors, about: Manifest) -> Path:
        """Write a checkpoint. Collective.

        Every rank writes and syncs a shard; then rank 0 writes the manifest and renames the
        folder, which makes the checkpoint visible, and removes the oldest.

        Args:
            tensors: this rank's share; no two ranks may give the same name.
            about: the manifest, without shards.

        Raises:
            InputError: it could not be written (on all ranks alike). Earlier ones are still
                there.
        """
        first = self._comm.rank == 0
        name = f"mini-batch-{about.position.mini_batches:08}"
        final, new = self._folder / name, self._folder / f".{name}.tmp"
        with raise_collectively(self._comm), _told(new):
            if first:
                self._sweep()
                new.mkdir(parents=True)
        shard = np.zeros(1 + hashlib.sha256().digest_size, np.int64)
        with raise_collectively(self._comm), _told(new):
            content = safetensors.numpy.save(dict(tensors))
            _write(new / _shard_name(self._comm.rank), content)
            shard[0], shard[1:] = len(content), list(hashlib.sha256(content).digest())
        rows = allgather_rows(self._comm, shard)
        with raise_collectively(self._comm), _told(final):
            if first:
                shards = [_shard(rank, row) for rank, row in enumerate(rows)]
                _write(new / manifest.NAME, replace(about, shards=shards).encode())
                self._publish(new, final)
        return final

    def _sweep(self) -> None:
        """Remove what a run that was killed while it wrote or removed has left."""
        for left_over in self._folder.glob(".mini-batch-*"):
            shutil.rmtree(left_over)

    def _publish(self, new: Path, final: Path) -> None:
        _sync(new)
        if final.exists():
            _retire(final)
        new.rename(final)
        _sync(self._folder)
        found, _ = manifest.checkpoints(self._folder)
        for path, _ in found[self._keep :]:
            _retire(path)
        self._sweep()


def _shard_name(rank: int) -> str:
    return f"{rank}.safetensors"


def _shard(rank: int, row: np.ndarray) -> Shard:
    return Shard(_shard_name(rank), int(row[0]), bytes(row[1:].tolist()).hex())


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _retire(path: Path) -> None:
    """Make a checkpoint invisible, all at once; `_sweep` removes it."""
    path.rename(path.with_name(f".{path.name}.old"))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"the checkpoint {path} can't be written ({error.strerror})") from error
