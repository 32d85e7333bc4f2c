"""The tensors of a checkpoint, or of a file that holds weights alone."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from vigmpi.checkpoint.manifest import Checkpoint
from vigmpi.checkpoint.shards import load, read_tensors, select_tensors
from vigmpi.errors import InputError


def read_values(
    checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Read tensors by name.

    Raises:
        InputError: one is damaged, missing, or of another shape than wanted.
    """
    if checkpoint.manifest:
        return load(checkpoint.path, checkpoint.manifest, wanted)
    return select_tensors(_weights(checkpoint.path), wanted, checkpoint.path)


def _weights(path: Path) -> dict[str, np.ndarray]:
    """A file of weights alone, under the names of the study's published code."""
    if path.suffix == ".safetensors":
        return read_tensors(path, path.read_bytes())
    try:  # torch's own loader for what it may trust: tensors, and no code
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in found.items()}
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).partition(".")[0]
        raise InputError(
            f"{path} can't be read as weights ({reason}); type: the path of a checkpoint, of a "
            f".safetensors file, or of a state_dict that torch saved"
        ) from error
