from pathlib import Path

import numpy as np
import safetensors.numpy


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint's folder, the optimizer's among them."""
    tensors: dict[str, np.ndarray] = {}
    for shard in checkpoint.glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(shard)
    assert tensors
    return tensors


def assert_equal_weights(one: Path, other: Path) -> None:
    found, expected = weights(one), weights(other)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
