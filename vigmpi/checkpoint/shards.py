"""Reading tensors from the shards of a checkpoint, which may be damaged or hostile."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from vigmpi.checkpoint.manifest import Manifest, Shard, refusal
from vigmpi.errors import InputError

_HEADER_BYTES = 2**20
_SHARD_BYTES = 2**32


def load(
    folder: Path, manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Read the tensors named in `shapes`, whichever shards hold them.

    Raises:
        InputError: if a shard is damaged, or a tensor is missing or has another shape.
    """
    tensors: dict[str, np.ndarray] = {}
    for shard in manifest.shards:
        values = _read_shard(folder / shard.name, shard)
        tensors |= {name: tensor for name, tensor in values.items() if name in shapes}
    return select_tensors(tensors, shapes, folder)


def select_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], source: Path
) -> dict[str, np.ndarray]:
    """Return the tensors named in `shapes`.

    Raises:
        InputError: if a tensor is missing or has another shape.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            problem = f"no tensor {name}"
        elif tensors[name].shape != shape:
            problem = f"{name} of shape {list(tensors[name].shape)} instead of {list(shape)}"
        else:
            continue
        raise InputError(
            f"checkpoint of another model: {source} has {problem}. Use the --blocks and --dataset "
            f"that it was trained with."
        )
    return {name: tensors[name] for name in shapes}


def read_tensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file.

    Raises:
        InputError: if the content is not in this format.
    """
    try:
        if int.from_bytes(content[:8], "little") > _HEADER_BYTES:
            raise ValueError("header larger than 1 MiB")
        return safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise refusal("damaged", path, f"not a safetensors file: {error}") from error


def _read_shard(path: Path, shard: Shard) -> dict[str, np.ndarray]:
    if shard.size_bytes > _SHARD_BYTES:
        raise refusal("damaged", path, "larger than 4 GiB")
    try:
        # Read once, so that the verified bytes are the ones that are used.
        content = path.read_bytes() if path.stat().st_size == shard.size_bytes else b""
    except OSError as error:
        raise refusal("unreadable", path, error.strerror) from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise refusal("damaged", path, "truncated or modified")
    return read_tensors(path, content)
