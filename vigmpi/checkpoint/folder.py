"""Writing checkpoints: all ranks in parallel, visible only when complete."""

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

from vigmpi.checkpoint.manifest import NAME, Manifest, Shard, checkpoints
from vigmpi.comm.collectives import allgather_rows, raise_collectively
from vigmpi.errors import InputError

Tensors = Mapping[str, np.ndarray]


class CheckpointFolder:
    """Folder of a run's checkpoints, on a file system that all ranks share.

    Args:
        keep: number of checkpoints to keep.
    """

    def __init__(self, comm: MPI.Comm, folder: Path, keep: int) -> None:
        self._comm = comm
        self._folder = folder
        self._keep = keep

    def begin(self, *, overwrite: bool) -> None:
        """Delete the checkpoints of an earlier run if `overwrite` is true. Collective.

        Raises:
            InputError: if the folder holds checkpoints and `overwrite` is false.
        """
        with raise_collectively(self._comm), _reporting_os_errors(self._folder):
            if self._comm.rank == 0 and (earlier := list(self._folder.glob("mini-batch-*"))):
                if not overwrite:
                    raise InputError(
                        f"folder already holds checkpoints: {self._folder}. Use --resume latest "
                        f"to continue from them, or --overwrite to delete them."
                    )
                for path in earlier:
                    _retire(path)
                self._sweep()

    def save(self, tensors: Tensors, manifest: Manifest) -> Path:
        """Write a checkpoint. Collective.

        Each rank writes and syncs a shard. Rank 0 then writes the manifest, renames the folder,
        which makes the checkpoint visible, and removes the oldest checkpoints.

        Args:
            tensors: this rank's tensors; names are unique over all ranks.
            manifest: the manifest, without shards.

        Raises:
            InputError: on all ranks, if any of them cannot write; earlier checkpoints remain.
        """
        name = f"mini-batch-{manifest.position.mini_batches:08}"
        final, new = self._folder / name, self._folder / f".{name}.tmp"
        with raise_collectively(self._comm), _reporting_os_errors(new):
            if self._comm.rank == 0:
                self._sweep()
                new.mkdir(parents=True)
        shard = np.zeros(1 + hashlib.sha256().digest_size, np.int64)
        with raise_collectively(self._comm), _reporting_os_errors(new):
            content = safetensors.numpy.save(dict(tensors))
            _write(new / _shard_name(self._comm.rank), content)
            shard[0], shard[1:] = len(content), list(hashlib.sha256(content).digest())
        rows = allgather_rows(self._comm, shard)
        with raise_collectively(self._comm), _reporting_os_errors(final):
            if self._comm.rank == 0:
                shards = [_shard(rank, row) for rank, row in enumerate(rows)]
                _write(new / NAME, replace(manifest, shards=shards).encode())
                self._publish(new, final)
        return final

    def _sweep(self) -> None:
        """Remove retired checkpoints and the remains of an interrupted run."""
        for path in self._folder.glob(".mini-batch-*"):
            shutil.rmtree(path)

    def _publish(self, new: Path, final: Path) -> None:
        _sync(new)
        if final.exists():
            _retire(final)
        new.rename(final)
        _sync(self._folder)
        readable, _ = checkpoints(self._folder)
        for path, _ in readable[self._keep :]:
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
    """Sync the entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _retire(path: Path) -> None:
    """Hide a checkpoint by an atomic rename; `_sweep` removes it."""
    path.rename(path.with_name(f".{path.name}.old"))


@contextmanager
def _reporting_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write the checkpoint: {path} ({error.strerror}). Free disk space, or use "
            f"--checkpoint-dir FOLDER with a folder that can be written."
        ) from error
