import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.shards import read_shard


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    """Return all tensors of a checkpoint, including the optimizer's."""
    tensors: dict[str, np.ndarray] = {}
    for shard in checkpoint.glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(shard)
    assert tensors
    return tensors


def verified_weights(checkpoint: Path) -> dict[str, np.ndarray]:
    """Return all tensors of a checkpoint after a comparison of all shards with its manifest."""
    content = manifest.read(checkpoint)
    tensors: dict[str, np.ndarray] = {}
    for index in range(len(content.shards)):
        tensors |= read_shard(checkpoint, content, index)
    assert tensors.keys() == {name for layer in content.layers.values() for name in layer}
    return tensors


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def copy_with_a_damaged_newer_one(checkpoint: Path, folder: Path) -> Path:
    """Copy a checkpoint to a folder twice; the newer copy is damaged. Return its damaged shard."""
    for name in ("old", "new"):
        shutil.copytree(checkpoint, folder / name)
    content = manifest.read(checkpoint)
    newer = replace(content, created=content.created + 1)
    (folder / "new" / manifest.NAME).write_bytes(newer.encode())
    shard = folder / "new" / "0.safetensors"
    flip_a_bit(shard)
    return shard


def assert_equal_weights(checkpoint: Path, reference: Path) -> None:
    actual, expected = weights(checkpoint), weights(reference)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)
