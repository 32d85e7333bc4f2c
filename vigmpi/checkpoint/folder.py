"""Writing checkpoints: all ranks in parallel, visible only when complete."""

import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from mpi4py import MPI

from vigmpi.checkpoint.manifest import MANIFEST_BYTES, NAME, SHARD_BYTES, Manifest, Shard
from vigmpi.checkpoint.search import checkpoints
from vigmpi.checkpoint.shards import HEADER_BYTES
from vigmpi.checkpoint.state import ByLayer, flat
from vigmpi.comm.collectives import (
    allgather_bytes,
    allgather_rows,
    allgather_strings,
    raise_collectively,
)
from vigmpi.errors import InputError
from vigmpi.file_lock import FileLock

Layers = ByLayer[np.ndarray]
_NAMES = "mini-batch-*"
_VISIBLE_S = 60.0  # for which caches of network file systems may hide a new file


class CheckpointFolder:
    """Folder of a run's checkpoints, on a file system that all ranks share.

    Args:
        keep: number of checkpoints to keep.
    """

    def __init__(self, comm: MPI.Comm, folder: Path, keep: int) -> None:
        self._comm = comm
        self._folder = folder
        self._keep = keep
        self._lock: FileLock | None = None

    def claim(self, *, patient: bool = False) -> None:
        """Create and lock the folder, and check that all ranks see the same one. Collective.

        Args:
            patient: see `FileLock`.

        Raises:
            InputError: if rank 0 cannot write to it, if another run uses it, or if another rank
                does not see what rank 0 wrote (on all ranks).
        """
        token = self._folder / f".shared-{_agreed_token(self._comm)}"
        try:
            with raise_collectively(self._comm), _reporting_os_errors(self._folder):
                if self._comm.rank == 0:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._lock = FileLock(
                        self._folder / ".lock",
                        f"folder of checkpoints in use: {self._folder}",
                        "Wait for the end of that run, or use --checkpoint-dir FOLDER.",
                        patient=patient,
                    )
                    token.touch()
            with raise_collectively(self._comm):
                if not _appears(token):
                    raise InputError(
                        f"folder not shared by all hosts: {self._folder.absolute()} on "
                        f"{platform.node()} is not that of rank 0. Use --checkpoint-dir FOLDER "
                        f"with a folder on a shared file system, or --keep 0 to write no "
                        f"checkpoints."
                    )
        except InputError:
            self.release()
            raise
        finally:
            if self._comm.rank == 0:
                with suppress(OSError):
                    token.unlink()

    def begin(self, run: str = "", *, overwrite: bool = False) -> int:
        """Prepare the folder, and return how often the run was started before. Collective.

        Args:
            run: identifier of the run that is continued, whose checkpoints stay; "" for none.
            overwrite: whether to delete the checkpoints of other runs.

        Raises:
            InputError: if the folder holds checkpoints of another run and `overwrite` is false (on
                all ranks).
        """
        starts = 0
        with raise_collectively(self._comm), _reporting_os_errors(self._folder):
            if self._comm.rank == 0:
                starts = self._keep_only(run, overwrite=overwrite)
        return int(allgather_rows(self._comm, np.array([starts]))[0, 0])

    def _keep_only(self, run: str, *, overwrite: bool) -> int:
        """Delete checkpoints of other runs, or refuse them; return the starts of this run."""
        readable = self._written()
        others = [path for path, manifest in readable if manifest.run != run]
        if not run:  # otherwise a damaged one may be its own
            others = list(self._folder.glob(_NAMES))
        if others and not overwrite:
            what = "checkpoints of another run" if run else "checkpoints"
            remedy = "--checkpoint-dir FOLDER" if run else "--resume latest to continue from them"
            raise InputError(
                f"folder already holds {what}: {self._folder}. Use {remedy}, or --overwrite to "
                f"delete them."
            )
        for path in others:
            _retire(path)
        if others:
            self._sweep()
        return max((manifest.starts for _, manifest in readable if manifest.run == run), default=0)

    def release(self) -> None:
        """Release the lock of the folder, and remove the folder if it is empty."""
        if self._lock:
            self._lock.release()
            with suppress(OSError):
                self._folder.rmdir()

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
        # The token keeps it apart from the remains of an interrupted run.
        final, new = self._folder / name, self._folder / f".{name}.{_agreed_token(self._comm)}.tmp"
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
                self._prune(final, manifest.run)
        return final

    def _written(self) -> list[tuple[Path, Manifest]]:
        """Return the readable checkpoints, newest first, without copies that a user has named."""
        readable, _ = checkpoints([self._folder])
        return [(path, manifest) for path, manifest in readable if path.match(_NAMES)]

    def _sweep(self) -> None:
        """Remove retired checkpoints and the remains of an interrupted run, as far as possible."""
        for path in self._folder.glob(".mini-batch-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _publish(self, new: Path, final: Path) -> None:
        """Make a checkpoint visible; one of the same name stays visible until then."""
        _sync(new)
        former = final.with_name(f"{final.name}.former")
        if final.exists():
            if former.exists():
                _retire(former)
            final.rename(former)
        new.rename(final)
        _sync(self._folder)
        with suppress(OSError):
            _retire(former)

    def _prune(self, newest: Path, run: str) -> None:
        """Remove the oldest checkpoints of a run, but never the newest, as far as possible."""
        others = [path for path, each in self._written() if each.run == run and path != newest]
        with suppress(OSError):
            for path in others[self._keep - 1 :]:
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


def _agreed_token(comm: MPI.Comm) -> str:
    """Return the same random text on all ranks. Collective."""
    return allgather_strings(comm, uuid.uuid4().hex)[0]


def _appears(path: Path) -> bool:
    """Wait until a path exists: another host's cache may still say that it does not."""
    limit = time.monotonic() + _VISIBLE_S
    while True:
        with suppress(OSError):
            if path.exists():
                return True
        if time.monotonic() > limit:
            return False
        time.sleep(0.2)


def _retire(path: Path) -> None:
    """Hide a checkpoint by an atomic rename; `_sweep` removes it."""
    path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex}.old"))


@contextmanager
def _reporting_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write the checkpoint: {path} ({error.strerror}). Free disk space, or use "
            f"--checkpoint-dir FOLDER with a folder that can be written."
        ) from error
