"""Reading the files that hold tensors, which may be damaged or hostile."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.numpy
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from vigmpi.checkpoint.manifest import SHARD_BYTES, Manifest, damage

T = TypeVar("T")
HEADER_BYTES = 2**21  # 100 of the study's blocks with their optimizer state need 1 MB


def read_shard(folder: Path, manifest: Manifest, index: int) -> dict[str, np.ndarray]:
    """Read all tensors of a shard. The verified bytes are those that are used.

    Raises:
        DamagedError: if the shard cannot be read or does not match the manifest.
    """
    shard = manifest.shards[index]
    path = folder / shard.name
    try:
        content = _read_content(path, shard.size_bytes)
    except OSError as error:
        raise damage("unreadable", path, error.strerror) from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise damage("damaged", path, "truncated or modified")
    try:
        tensors = _decode(content, safetensors.numpy.load)
    except ValueError as error:
        raise damage("damaged", path, str(error)) from error
    for name in sorted(tensors.keys() ^ manifest.tensors_of(index)):
        there, other = ("shard", "manifest") if name in tensors else ("manifest", "shard")
        raise damage("damaged", path, f"tensor {name:.100} in the {there}, but not in the {other}")
    return tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file without a manifest.

    Raises:
        OSError, ValueError: if it cannot be read, or is not in this format.
    """
    if (size_bytes := path.stat().st_size) > SHARD_BYTES:
        raise ValueError("larger than 4 GiB")
    return _decode(_read_content(path, size_bytes), safetensors.torch.load)


def _decode(content: bytes, load: Callable[[bytes], dict[str, T]]) -> dict[str, T]:
    """Return the tensors of a safetensors file, as `load` decodes them.

    Raises:
        ValueError: if the content is not in this format.
    """
    try:
        if int.from_bytes(content[:8], "little") > HEADER_BYTES:
            raise ValueError("header larger than 2 MiB")
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def _read_content(path: Path, size_bytes: int) -> bytes:
    """Return the content of a file, or nothing if the file has another size."""
    with path.open("rb") as file:
        complete = os.fstat(file.fileno()).st_size == size_bytes
        return file.read(size_bytes) if complete else b""
