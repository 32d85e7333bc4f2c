"""The search for the checkpoint from which a run starts."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vigmpi.checkpoint.manifest import NAME, Manifest, damage, read, reason_of, refusal
from vigmpi.checkpoint.tensor_names import is_average
from vigmpi.errors import InputError, error_reason
from vigmpi.position import Position

BEST = "best"  # subfolder for the best checkpoint of a run with held-out images
_TRIES = 3
SUFFIX = ".checkpoints"  # of the folder's name, behind the whole name of the record


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
        searched: folders among whose checkpoints it is the newest; empty for a checkpoint that the
            user named.
    """

    path: Path
    manifest: Manifest | None = None
    skipped: Sequence[str] = ()
    older: Sequence["Checkpoint"] = ()
    notes: Sequence[str] = ()
    replace_head: bool = False
    use_averages: bool = True
    searched: Sequence[Path] = ()

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
        """Record of the run that a training continues, if it is known where it is.

        It lies beside the folder of checkpoints, to which it gave its name, or else where the run
        wrote it, if it is still there.
        """
        if not self.continued:
            return None
        folder = self.folder
        beside = [folder.with_suffix(""), folder.with_suffix(".h5")]  # the latter in earlier runs
        named = folder.suffix == SUFFIX
        written = Path(str(self.continued.settings.get("record", "")))
        candidates = *(beside if named else ()), written
        # Unlike the method of Path, the function takes a file that it may not see for none.
        existing = [path for path in candidates if os.path.isfile(path)]  # noqa: PTH113
        if existing:
            return existing[0]
        return beside[0] if named else None

    @property
    def folder(self) -> Path:
        """Folder of the checkpoints of its run."""
        folder = Path(os.path.relpath(self.path.absolute().parent))
        return folder.parent if folder.name == BEST else folder


def folder_of(record: Path) -> Path:
    """Return the default folder of the checkpoints of the run with this record."""
    return record.with_name(record.name + SUFFIX)


def folders_of_job(job: str) -> list[Path]:
    """Return the folders of checkpoints of the runs of a Slurm job with default names."""
    return [*Path().glob(f"vigmpi-{job}.h5{SUFFIX}"), *Path().glob(f"vigmpi-{job}-*.h5{SUFFIX}")]


def find(name: str, folders: Sequence[Path] | None = None) -> Checkpoint | None:
    """Return the checkpoint that a user names, or None if "latest" matches none.

    Only manifests are read, and the sizes of shards compared; `loading.load` verifies digests.

    Args:
        name: a checkpoint, a folder of checkpoints, a weights-only file, or "latest".
        folders: where to look for the latest; None for the default names of such folders in the
            working directory.

    Raises:
        InputError: if there is no such checkpoint, or if it is damaged.
    """
    try:
        return _find(name, folders)
    except OSError as error:
        raise refusal(f"cannot read the checkpoint: {name} ({error_reason(error)})") from error


def _find(name: str, folders: Sequence[Path] | None) -> Checkpoint | None:
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (the method fails without such a user)
    if path.is_file():
        return Checkpoint(path)
    if (path / NAME).exists():
        manifest = read(path)
        check_sizes(path, manifest)
        return Checkpoint(path, manifest)
    if name == "latest":
        folders = sorted(Path().glob(f"vigmpi-*{SUFFIX}")) if folders is None else folders
    elif path.is_dir():
        folders = [path]
    else:
        raise InputError(f"no such checkpoint: {name}. Use the path of a checkpoint, or 'latest'.")
    for _ in range(_TRIES):  # a running training may remove what was just listed
        checkpoint, skipped = _newest(folders)
        if checkpoint or not skipped:
            break
    if checkpoint or (name == "latest" and not skipped):
        return checkpoint
    raise refusal(skipped[0] if skipped else f"no checkpoint in the folder: {name}")


def newer(checkpoint: Checkpoint) -> Checkpoint | None:
    """Return the newest checkpoint of a run if the one found has been removed, otherwise None.

    A running training removes its older checkpoints.
    """
    if not checkpoint.searched or checkpoint.path.exists():
        return None
    found, _ = _newest(checkpoint.searched)
    assert checkpoint.manifest
    if not found or not found.manifest or not _replaceable(checkpoint.manifest, found.manifest):
        return None
    return replace(
        found,
        replace_head=checkpoint.replace_head,
        use_averages=checkpoint.use_averages,
    )


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
    """Return the checkpoints with a readable manifest, newest first, and why others are skipped.

    The newest of a run are those of its last start and, among these, those with most mini-batches.
    """
    readable, skipped = [], []
    for folder in folders:
        for path in sorted(folder.glob("[!.]*/"), reverse=True):
            if path.is_dir() and path.name != BEST:
                try:
                    readable.append((path, read(path)))
                except InputError as error:
                    skipped.append(reason_of(error))
    newest: dict[str, float] = {}
    for _, manifest in readable:
        newest[manifest.run] = max(newest.get(manifest.run, -math.inf), manifest.created)

    def age(found: tuple[Path, Manifest]) -> tuple:
        # Within a run, clocks do not count: those of its hosts may differ.
        each = found[1]
        return newest[each.run], each.run, each.starts, each.position.mini_batches, each.created

    return sorted(readable, key=age, reverse=True), skipped


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
            return Checkpoint(path, manifest, skipped, older, searched=folders), skipped
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
