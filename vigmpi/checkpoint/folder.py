"""Writing checkpoints: all ranks in parallel, visible only when complete."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from mpi4py import MPI

from vigmpi.checkpoint.manifest import MANIFEST_BYTES, NAME, SHARD_BYTES, Manifest, Shard
from vigmpi.checkpoint.search import checkpoints
from vigmpi.checkpoint.shards import HEADER_BYTES
from vigmpi.checkpoint.state import ByLayer, flat
from vigmpi.comm.collectives import allgather_bytes, raise_collectively
from vigmpi.errors import InputError

Layers = ByLayer[np.ndarray]


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

    def save(self, layers: Layers, manifest: Manifest) -> Path:
        """Write a checkpoint. Collective.

        Each rank writes and syncs a shard. Rank 0 then writes the manifest, renames the folder,
        which makes the checkpoint visible, and removes the oldest checkpoints.

        Args:
            layers: this rank's layers, also those without any tensor to write, and the tensors
                to write by name. Together, ranks in order have all layers in order.
            manifest: the manifest, without layers and shards.

        Raises:
            InputError: on all ranks, if any of them cannot write; earlier checkpoints remain.
        """
        name = f"mini-batch-{manifest.position.mini_batches:08}"
        final, new = self._folder / name, self._folder / f".{name}.tmp"
        with raise_collectively(self._comm), _reporting_os_errors(new):
            if self._comm.rank == 0:
                self._sweep()
                new.mkdir(parents=True)
        written = b""
        with raise_collectively(self._comm), _reporting_os_errors(new):
            written = _write_shard(new / _shard_name(self._comm.rank), layers)
        parts = allgather_bytes(self._comm, written)
        with raise_collectively(self._comm), _reporting_os_errors(final):
            if self._comm.rank == 0:
                content = _complete(manifest, parts).encode()
                _check_size("manifest", len(content), MANIFEST_BYTES)
                _write(new / NAME, content)
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
        readable, _ = checkpoints([self._folder])
        for path, _ in readable[self._keep :]:
            _retire(path)
        self._sweep()


def _shard_name(rank: int) -> str:
    return f"{rank}.safetensors"


def _write_shard(path: Path, layers: Layers) -> bytes:
    """Write a shard and return its size, its digest and its tensors' names by layer, as JSON."""
    content = safetensors.numpy.save(flat(layers))
    _check_size("shard", len(content), SHARD_BYTES)
    _check_size("header of a shard", int.from_bytes(content[:8], "little"), HEADER_BYTES)
    _write(path, content)
    names = {layer: list(tensors) for layer, tensors in layers.items()}
    return json.dumps([len(content), hashlib.sha256(content).hexdigest(), names]).encode()


def _complete(manifest: Manifest, parts: Sequence[bytes]) -> Manifest:
    """Return a manifest with the layers and shards that the ranks have written."""
    layers: dict[str, dict[str, int]] = {}
    shards = []
    for rank, part in enumerate(parts):
        size_bytes, sha256, names = json.loads(part)
        shards.append(Shard(_shard_name(rank), size_bytes, sha256))
        for layer, tensors in names.items():
            layers.setdefault(layer, {}).update(dict.fromkeys(tensors, rank))
    return replace(manifest, layers=layers, shards=shards)


def _check_size(name: str, size_bytes: int, limit: int) -> None:
    """Raise InputError if a file would be refused when it is read."""
    if size_bytes > limit:
        raise InputError(
            f"checkpoint too large: {name} of {size_bytes} bytes, at most {limit} are supported. "
            f"Use more --stages, or --keep 0 to write no checkpoints."
        )


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
