"""The manifest of a checkpoint, and the search for a checkpoint by name.

A checkpoint is a folder of shards (safetensors files) and a manifest with their sizes and
digests, protected by a digest of its own; README.md describes the layout.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vigmpi.errors import InputError
from vigmpi.phase import Phase
from vigmpi.position import Position

NAME = "manifest.json"
SUFFIX = ".checkpoints"  # replaces the record's suffix in the name of a run's checkpoint folder
_USE_ANOTHER = "Use the path of another checkpoint, or omit --resume to start from the beginning."
_FORMAT = "vigmpi checkpoint 2"
_MANIFEST_BYTES = 2**20
_SHARD = re.compile(r"[0-9]{1,9}\.safetensors")


@dataclass(frozen=True)
class Shard:
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Description of a checkpoint.

    Attributes:
        run: identifier of the run that wrote it.
        created: seconds since 1970.
        position: where the run stood.
        settings: the run's options, by the names of the fields of `RunConfig`.
        image_size: height and width, in pixels.
        class_names: name of each logit's class.
        normalization: means and standard deviations by which the image channels were
            standardized; empty without standardization.
        shards: the files that hold the tensors.
    """

    run: str
    created: float
    position: Position
    settings: Mapping[str, Any]
    image_size: tuple[int, int]
    class_names: Sequence[str]
    normalization: Sequence[Sequence[float]] = ()
    shards: Sequence[Shard] = ()

    def encode(self) -> bytes:
        body = {"format": _FORMAT, **asdict(self), "position": self.position._asdict()}
        return json.dumps({"sha256": _digest(body), "checkpoint": body}, indent=1).encode()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint or a weights-only file from which a run starts.

    Attributes:
        manifest: None for a weights-only file.
        skipped: reasons why newer checkpoints were skipped.
    """

    path: Path
    manifest: Manifest | None = None
    skipped: Sequence[str] = ()

    @property
    def record(self) -> Path | None:
        """Record of the run that wrote the checkpoint; None outside of that run's folder."""
        folder = Path(os.path.relpath(self.path.absolute().parent))
        return folder.with_suffix(".h5") if folder.suffix == SUFFIX else None


def find(name: str, folder: Path | None) -> Checkpoint | None:
    """Return the checkpoint that a user names, or None if "latest" matches none.

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
        return Checkpoint(path, read(path))
    if name == "latest":
        folders = [folder] if folder else sorted(Path().glob(f"vigmpi-*{SUFFIX}"))
    elif path.is_dir():
        folders = [path]
    else:
        raise InputError(f"no such checkpoint: {name}. Use the path of a checkpoint, or 'latest'.")
    checkpoint, skipped = _newest(folders)
    if checkpoint or (name == "latest" and not skipped):
        return checkpoint
    reason = skipped[0] if skipped else f"no checkpoint in the folder: {name}"
    raise InputError(f"{reason}. {_USE_ANOTHER}")


def read(folder: Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        InputError: if it cannot be read, is damaged, or has an unsupported format.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            text = file.read(_MANIFEST_BYTES + 1)
        if len(text) > _MANIFEST_BYTES:
            raise ValueError("larger than 1 MiB")
        return _decode(json.loads(text, object_pairs_hook=_without_duplicates), path)
    except OSError as error:
        raise refusal("unreadable", path, error.strerror) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise refusal("damaged", path, str(error) or type(error).__name__) from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Read all shards and compare them with the manifest.

    Raises:
        InputError: if a shard cannot be read or is damaged; the message names the first.
    """
    for shard in manifest.shards:
        path = folder / shard.name
        try:
            with path.open("rb") as file:
                complete = os.fstat(file.fileno()).st_size == shard.size_bytes
                digest = hashlib.file_digest(file, "sha256").hexdigest() if complete else ""
        except OSError as error:
            raise refusal("unreadable", path, error.strerror) from error
        if digest != shard.sha256:
            raise refusal("damaged", path, "truncated or modified")


def checkpoints(folder: Path) -> tuple[list[tuple[Path, Manifest]], list[str]]:
    """Return the checkpoints with a readable manifest, newest first, and why others are skipped."""
    readable, skipped = [], []
    for path in sorted(folder.glob("[!.]*/"), reverse=True):
        if path.is_dir():
            try:
                readable.append((path, read(path)))
            except InputError as error:
                skipped.append(_reason(error))
    return sorted(readable, key=lambda pair: pair[1].created, reverse=True), skipped


def _newest(folders: Sequence[Path]) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest undamaged checkpoint in these folders, and why others are skipped."""
    readable, skipped = [], []
    for folder in folders:
        in_folder, reasons = checkpoints(folder)
        readable += in_folder
        skipped += reasons
    for path, manifest in sorted(readable, key=lambda pair: pair[1].created, reverse=True):
        try:
            verify(path, manifest)
        except InputError as error:
            skipped.append(_reason(error))
        else:
            return Checkpoint(path, manifest, skipped), skipped
    return None, skipped


def refusal(problem: str, path: Path, reason: str | None) -> InputError:
    """Return the error for an unreadable or damaged file of a checkpoint."""
    return InputError(f"{problem} checkpoint: {path} ({reason}). {_USE_ANOTHER}")


def _reason(error: InputError) -> str:
    return str(error).removesuffix(f". {_USE_ANOTHER}")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise ValueError("duplicate name")
    return names


def _decode(content: Any, path: Path) -> Manifest:
    body = content["checkpoint"]
    if content["sha256"] != _digest(body):
        raise ValueError("digest does not match")
    if (version := body["format"]) != _FORMAT:
        raise InputError(
            f'unsupported checkpoint format: {path} has "{version!s:.40}", this version reads '
            f'"{_FORMAT}". {_USE_ANOTHER}'
        )
    position = Position(**body["position"])
    height, width = body["image_size"]
    counts = (position.mini_batches, position.epoch, position.step, position.num_images)
    if not all(type(number) is int and number >= 0 for number in (*counts, height, width)):
        raise ValueError("invalid position or image size")
    shards = [Shard(**shard) for shard in body["shards"]]
    for shard in shards:
        if not _SHARD.fullmatch(shard.name):
            raise ValueError(f"invalid name of a shard: {shard.name!r}")
    return Manifest(
        run=str(body["run"]),
        created=float(body["created"]),
        position=position._replace(phase=Phase(position.phase)),
        settings=dict(body["settings"]),
        image_size=(height, width),
        class_names=[str(name) for name in body["class_names"]],
        normalization=[[float(value) for value in row] for row in body["normalization"]],
        shards=shards,
    )
