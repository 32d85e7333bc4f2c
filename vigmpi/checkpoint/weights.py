"""Reading a weights-only file, whose tensors have the names of a model's published code."""

import warnings
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch

from vigmpi.checkpoint.shards import read_safetensors
from vigmpi.errors import InputError, error_reason


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a weights-only file.

    Raises:
        InputError: if it cannot be read, or is neither a safetensors file nor torch's.
    """
    try:
        return read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the weights: {path} ({error_reason(error):.200}). Use the path of a "
            f"checkpoint, of a .safetensors file, or of a state_dict saved by torch."
        ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    """Read a `state_dict` saved by torch.

    Raises:
        OSError, ValueError: if it cannot be read, or is not a `state_dict`.
    """
    try:  # weights_only: torch unpickles tensors and runs no code from the file
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): tensor.numpy() for name, tensor in tensors.items()}
    except OSError:
        raise
    except UnpicklingError as error:
        raise ValueError("not a file of tensors") from error
    except Exception as error:  # a damaged file can lead the unpickler to any of them
        raise ValueError(str(error).partition(".")[0]) from error
