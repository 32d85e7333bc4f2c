"""Reading a weights-only file, whose tensors have the names of a model's published code.

Training programs store weights in several ways: as a `state_dict`, as an entry of a dictionary
beside the optimizer's state, or from within a wrapper, which puts a prefix before all names. What
is unambiguous is unwrapped.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vigmpi.checkpoint.shards import read_safetensors
from vigmpi.errors import InputError, error_reason

_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a weights-only file; those of less than 32 bits become float32.

    Raises:
        InputError: if it cannot be read, or is neither a safetensors file nor torch's.
    """
    try:
        is_safetensors = path.suffix == ".safetensors"
        content = read_safetensors(path) if is_safetensors else _read_torch(path)
        tensors = _without_wrappers(_state_dict(content))
        return {name: _as_array(name, tensor) for name, tensor in tensors.items()}
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the weights: {path} ({error_reason(error):.200}). Use the path of a "
            f"checkpoint, of a .safetensors file, or of a state_dict saved by torch."
        ) from error


def _read_torch(path: Path) -> Any:
    """Read a file saved by torch.

    Raises:
        OSError, ValueError: if it cannot be read, or holds more than tensors and plain values.
    """
    try:  # weights_only: torch unpickles tensors and runs no code from the file
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except UnpicklingError as error:
        raise ValueError("not a file of tensors") from error
    except Exception as error:  # a damaged file can lead the unpickler to any of them
        raise ValueError(str(error).partition(".")[0]) from error


def _state_dict(content: Any) -> Mapping[str, Tensor]:
    """Return the only dictionary of tensors that a file holds, itself or as an entry.

    Raises:
        ValueError: if there are none or several; the message says what was found.
    """
    if _is_state_dict(content):
        return content
    if not isinstance(content, Mapping):
        raise ValueError(f"a {type(content).__name__} instead of tensors by name")
    found = {key: value for key, value in content.items() if _is_state_dict(value)}
    if len(found) == 1:
        return next(iter(found.values()))
    names = ", ".join(map(str, found or content)) or "nothing"
    raise ValueError(f"several dictionaries of tensors: {names}" if found else f"found {names}")


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(each, Tensor) for key, each in value.items())
    )


def _without_wrappers(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in _WRAPPERS * 2:  # they can be nested in either order
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _as_array(name: str, tensor: Tensor) -> np.ndarray:
    """Return the values of a tensor or parameter.

    Raises:
        ValueError: if numpy has no such type, for example for quantized or sparse tensors.
    """
    narrow = tensor.is_floating_point() and tensor.dtype is not torch.float64
    try:
        array: np.ndarray = (tensor.detach().float() if narrow else tensor.detach()).numpy()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} of type {tensor.dtype}, layout {tensor.layout}") from error
    return array
