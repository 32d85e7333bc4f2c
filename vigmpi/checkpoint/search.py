"""The search for the checkpoint from which a run starts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vigmpi.checkpoint.manifest import NAME, Manifest, damage, read, reason_of, refusal
from vigmpi.checkpoint.tensor_names import is_average
from vigmpi.errors import InputError
from vigmpi.position import Position

BEST = "best"  # subfolder for the best checkpoint of a run with held-out images
SUFFIX = ".checkpoints"  # replaces the record's suffix in the name of a run's checkpoint folder


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint or a weights-only file from which a run starts.

    Attributes:
        manifest: None for a weights-only file.
        skipped: reasons why newer checkpoints were skipped.
        older: what to use instead if a shard turns out to be damaged, newest first; empty for a
            checkpoint that the user named.
        notes: what `load` changed in what it read.
        replace_head: true to start a new training from all weights except those of the head.
        use_averages: false to take the raw weights even if there are moving averages of them.
    """

    path: Path
    manifest: Manifest | None = None
    skipped: Sequence[str] = ()
    older: Sequence["Checkpoint"] = ()
    notes: Sequence[str] = ()
    replace_head: bool = False
    use_averages: bool = True

    @property
    def has_averages(self) -> bool:
        """Return whether the checkpoint holds moving averages of weights."""
        layers = self.manifest.layers.values() if self.manifest else ()
        return any(is_average(name) for tensors in layers for name in tensors)

    @property
    def continued(self) -> Manifest | None:
        """Manifest of the run that a training continues, if it continues one."""
        return None if self.replace_head else self.manifest

    @property
    def position(self) -> Position:
        return self.continued.position if self.continued else Position()

    @property
    def record(self) -> Path | None:
        """Record of the run that a training continues; None outside of that run's folder."""
        if self.replace_head:
            return None
        folder = Path(os.path.relpath(self.path.absolute().parent))
        folder = folder.parent if folder.name == BEST else folder
        return folder.with_suffix(".h5") if folder.suffix == SUFFIX else None


def find(name: str, folder: Path | None) -> Checkpoint | None:
    """Return the checkpoint that a user names, or None if "latest" matches none.

    Only manifests are read, and the sizes of shards compared; `loading.load` verifies digests.

    Args:
        name: a checkpoint, a folder of checkpoints, a weights-only file, or "latest".
        folder: where to look for the latest; None for all checkpoint folders in the working
            directory.

    Raises:
        InputError: if there is no such checkpoint, or if it is damaged.
    """
    path = Path(name)
    if path.is_file():
        return Checkpoint(path)
    if (path / NAME).exists():
        manifest = read(path)
        check_sizes(path, manifest)
        return Checkpoint(path, manifest)
    if name == "latest":
        folders = [folder] if folder else sorted(Path().glob(f"vigmpi-*{SUFFIX}"))
    elif path.is_dir():
        folders = [path]
    else:
        raise InputError(f"no such checkpoint: {name}. Use the path of a checkpoint, or 'latest'.")
    checkpoint, skipped = _newest(folders)
    if checkpoint or (name == "latest" and not skipped):
        return checkpoint
    raise refusal(skipped[0] if skipped else f"no checkpoint in the folder: {name}")


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Compare the sizes of all shards with the manifest, without reading them.

    Raises:
        DamagedError: if a shard is missing or has another size; the message names the first.
    """
    for shard in manifest.shards:
        path = folder / shard.name
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise damage("unreadable", path, error.strerror) from error
        if size_bytes != shard.size_bytes:
            raise damage("damaged", path, "truncated or modified")


def checkpoints(folders: Sequence[Path]) -> tuple[list[tuple[Path, Manifest]], list[str]]:
    """Return the checkpoints with a readable manifest, newest first, and why others are skipped."""
    readable, skipped = [], []
    for folder in folders:
        for path in sorted(folder.glob("[!.]*/"), reverse=True):
            if path.is_dir() and path.name != BEST:
                try:
                    readable.append((path, read(path)))
                except InputError as error:
                    skipped.append(reason_of(error))
    return sorted(readable, key=lambda pair: pair[1].created, reverse=True), skipped


def _newest(folders: Sequence[Path]) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint with complete shards, and why others are skipped."""
    readable, skipped = checkpoints([*folders, *(folder / BEST for folder in folders)])
    for index, (path, manifest) in enumerate(readable):
        try:
            check_sizes(path, manifest)
        except InputError as error:
            skipped.append(reason_of(error))
        else:
            older = [
                Checkpoint(other, content)
                for other, content in readable[index + 1 :]
                if _replaceable(manifest, content)
            ]
            return Checkpoint(path, manifest, skipped, older), skipped
    return None, skipped


def _replaceable(manifest: Manifest, older: Manifest) -> bool:
    """Return whether a run that was set up for a checkpoint can start from an older one.

    The options and the normalization were taken from the newer manifest before its shards were
    read. An older checkpoint of the same run and model agrees with it, except for options that a
    user changed when the run was resumed between them; they stay as they were changed.
    """

    def origin(each: Manifest) -> tuple:
        return each.run, each.model, each.model_config, each.class_names, each.normalization

    return origin(manifest) == origin(older)
