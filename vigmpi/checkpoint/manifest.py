"""Which files a checkpoint is made of, and whether they are whole.

A checkpoint is a folder: shards of tensors (safetensors), and a manifest that names them with
their sizes and digests. The manifest carries a digest of its own.
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
SUFFIX = ".checkpoints"  # of the folder of a run's, after its record's name
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
    """What a checkpoint says of itself.

    Attributes:
        run: an identifier of the run that wrote it.
        created: seconds since 1970.
        settings: of that run, by the names of `RunConfig`.
        image_size: height and width.
        class_names: what the logits stand for.
        normalization: means and deviations of the channels that images were brought to 0 and 1
            by; empty where they were not.
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
    """What a run starts from.

    Attributes:
        manifest: None where `path` is a file of weights alone.
        skipped: why newer ones were passed over.
    """

    path: Path
    manifest: Manifest | None = None
    skipped: Sequence[str] = ()

    @property
    def record(self) -> Path | None:
        """The record of the run that wrote it, where it lies in that run's own folder."""
        folder = Path(os.path.relpath(self.path.absolute().parent))
        return folder.with_suffix(".h5") if folder.suffix == SUFFIX else None


def find(name: str, folder: Path | None) -> Checkpoint | None:
    """The checkpoint that a user names.

    Args:
        name: a checkpoint, a folder of them, a file of weights, or "latest".
        folder: where to look for the latest; None: in all folders of checkpoints here.

    Returns:
        None where "latest" finds no folder or an empty one.

    Raises:
        InputError: it is not there, or not whole.
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
        raise InputError(f"there is no checkpoint {name}; type: the path of one, or latest")
    found, refused = _newest(folders)
    if found or (name == "latest" and not refused):
        return found
    reason = refused[0] if refused else f"there is no checkpoint in {name}"
    raise InputError(f"{reason}; type: the path of another, or leave it out to begin anew")


def read(folder: Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        InputError: it is not there, or not as it was written.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            text = file.read(_MANIFEST_BYTES + 1)
        if len(text) > _MANIFEST_BYTES:
            raise ValueError("larger than 1 MiB")
        return _decode(json.loads(text, object_pairs_hook=_without_duplicates))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path} can't be read ({reason})") from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Read all shards and compare them with the manifest.

    Raises:
        InputError: naming the first that is not as it was written.
    """
    for shard in manifest.shards:
        try:
            with (folder / shard.name).open("rb") as file:
                whole = os.fstat(file.fileno()).st_size == shard.size_bytes
                digest = hashlib.file_digest(file, "sha256").hexdigest() if whole else ""
        except OSError as error:
            raise InputError(f"{folder / shard.name} can't be read ({error.strerror})") from error
        if digest != shard.sha256:
            raise InputError(f"{folder / shard.name} is cut short or changed")


def checkpoints(folder: Path) -> tuple[list[tuple[Path, Manifest]], list[str]]:
    """Those in a folder whose manifest can be read, newest first, and why others cannot."""
    found, refused = [], []
    for path in sorted(folder.glob("[!.]*/"), reverse=True):
        if path.is_dir():
            try:
                found.append((path, read(path)))
            except InputError as error:
                refused.append(str(error))
    return sorted(found, key=lambda pair: pair[1].created, reverse=True), refused


def _newest(folders: Sequence[Path]) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint in some folders, and why others were refused."""
    found, refused = [], []
    for folder in folders:
        readable, why_not = checkpoints(folder)
        found += readable
        refused += why_not
    for path, about in sorted(found, key=lambda pair: pair[1].created, reverse=True):
        try:
            verify(path, about)
        except InputError as error:
            refused.append(str(error))
        else:
            return Checkpoint(path, about, refused), refused
    return None, refused


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise ValueError("a name stands there twice")
    return names


def _decode(content: Any) -> Manifest:
    body = content["checkpoint"]
    if content["sha256"] != _digest(body):
        raise ValueError("its digest is not that of its content")
    if body["format"] != _FORMAT:
        raise ValueError(f"not of the format {_FORMAT!r}")
    position = Position(**body["position"])
    height, width = body["image_size"]
    counts = (position.mini_batches, position.epoch, position.step, position.num_images)
    if not all(type(number) is int and number >= 0 for number in (*counts, height, width)):
        raise ValueError("a position or size that cannot be")
    shards = [Shard(**shard) for shard in body["shards"]]
    for shard in shards:
        if not _SHARD.fullmatch(shard.name):
            raise ValueError(f"{shard.name!r} is no name of a shard")
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
