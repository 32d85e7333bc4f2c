"""Reading tensors from a checkpoint or from a weights-only file."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch

from vigmpi.checkpoint.manifest import Checkpoint
from vigmpi.checkpoint.shards import load, read_tensors, select_tensors
from vigmpi.errors import InputError


def read_values(
    checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Read tensors by name.

    Raises:
        InputError: if a file is damaged, or a tensor is missing or has another shape.
    """
    if checkpoint.manifest:
        return load(checkpoint.path, checkpoint.manifest, shapes)
    return select_tensors(_read_weights(checkpoint.path), shapes, checkpoint.path)


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read a weights-only file, whose tensors have the names of the study's published code."""
    if path.suffix == ".safetensors":
        return read_tensors(path, path.read_bytes())
    try:  # weights_only: torch unpickles tensors and runs no code from the file
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    except (OSError, RuntimeError, ValueError, EOFError, AttributeError, UnpicklingError) as error:
        no_tensors = isinstance(error, UnpicklingError)
        reason = "not a file of tensors" if no_tensors else str(error).partition(".")[0]
        raise InputError(
            f"cannot read the weights: {path} ({reason}). Use the path of a checkpoint, of a "
            f".safetensors file, or of a state_dict saved by torch."
        ) from error
