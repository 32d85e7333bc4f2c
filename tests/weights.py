from pathlib import Path

import numpy as np
import safetensors.numpy


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    """Return all tensors of a checkpoint, including the optimizer's."""
    tensors: dict[str, np.ndarray] = {}
    for shard in checkpoint.glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(shard)
    assert tensors
    return tensors


def assert_equal_weights(checkpoint: Path, reference: Path) -> None:
    actual, expected = weights(checkpoint), weights(reference)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)
