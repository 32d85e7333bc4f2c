"""Tensors of a checkpoint's shards, read with care: a file may be damaged or hostile."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from vigmpi.checkpoint.manifest import Manifest, Shard
from vigmpi.errors import InputError

_HEADER_BYTES = 2**20
_SHARD_BYTES = 2**32


def load(
    folder: Path, about: Manifest, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Read tensors by name, from whichever shards hold them.

    Args:
        about: the manifest of `folder`.
        wanted: names and shapes.

    Raises:
        InputError: a shard is not as the manifest says, or a tensor is missing or of another
            shape.
    """
    found: dict[str, np.ndarray] = {}
    for shard in about.shards:
        found |= {k: v for k, v in _read_shard(folder / shard.name, shard).items() if k in wanted}
    return select_tensors(found, wanted, folder)


def select_tensors(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], source: Path
) -> dict[str, np.ndarray]:
    """The wanted ones among tensors that were found.

    Raises:
        InputError: a tensor is missing or of another shape.
    """
    for name, shape in wanted.items():
        if name not in found:
            raise InputError(f"{source} is of another model: it has no {name}")
        if found[name].shape != shape:
            raise InputError(
                f"{source} is of another model: its {name} has the shape "
                f"{list(found[name].shape)}, this model's has {list(shape)}"
            )
    return {name: found[name] for name in wanted}


def read_tensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is none.
    """
    if int.from_bytes(content[:8], "little") > _HEADER_BYTES:
        raise InputError(f"{path} can't be read (its header is larger than 1 MiB)")
    try:
        return safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} can't be read as safetensors ({error})") from error


def _read_shard(path: Path, shard: Shard) -> dict[str, np.ndarray]:
    if shard.size_bytes > _SHARD_BYTES:
        raise InputError(f"{path} is larger than 4 GiB, which no shard is")
    try:
        # What is checked is what is used: the file is read once.
        content = path.read_bytes() if path.stat().st_size == shard.size_bytes else b""
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise InputError(f"{path} is cut short or changed")
    return read_tensors(path, content)
