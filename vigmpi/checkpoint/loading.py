"""Loading a checkpoint or a weights-only file, strictly: it must hold the model and no more."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from torch import Tensor

from vigmpi.checkpoint.manifest import DamagedError, Manifest, reason_of
from vigmpi.checkpoint.search import Checkpoint
from vigmpi.checkpoint.shards import read_shard
from vigmpi.checkpoint.state import (
    ByLayer,
    Names,
    copy_into,
    flat,
    is_of_optimizer,
    without_optimizer,
)
from vigmpi.checkpoint.weights import read_weights
from vigmpi.errors import InputError
from vigmpi.models.config import ModelConfig


def load(
    checkpoint: Checkpoint,
    model: Names,
    own: ByLayer[Tensor],
    together: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Checkpoint:
    """Load layers from a checkpoint, or from the first undamaged one of its `older`.

    An optimizer's state is loaded if `own` includes it and the checkpoint is no weights-only file.

    Args:
        model: layers of the complete model and the names of their tensors.
        own: the layers to load.
        together: context that raises an InputError of any rank on all ranks.

    Returns:
        The checkpoint that was loaded, with the reasons why newer ones were skipped.

    Raises:
        InputError: if it holds another model, or if all are damaged.
    """
    errors: list[DamagedError] = []
    for candidate in (checkpoint, *checkpoint.older):
        try:
            with together():
                values = _read(candidate, model, own)
        except DamagedError as error:
            errors.append(error)
        else:
            copy_into(own if candidate.manifest else without_optimizer(own), values)
            skipped = [*checkpoint.skipped, *map(reason_of, errors)]
            return replace(candidate, skipped=skipped, older=())
    raise errors[0]


def check_configuration(checkpoint: Checkpoint, model: str, config: ModelConfig) -> None:
    """Raise InputError if the checkpoint's model has another name or configuration."""
    if manifest := checkpoint.manifest:
        found = {"model": manifest.model, **asdict(manifest.model_config)}
        expected = {"model": model, **asdict(config)}
        for name, value in expected.items():
            if found[name] != value:
                raise _another_model(checkpoint.path, f"{name} {found[name]} instead of {value}")


def _read(checkpoint: Checkpoint, model: Names, own: ByLayer[Tensor]) -> dict[str, np.ndarray]:
    """Read the tensors of `own`; a weights-only file has none of an optimizer."""
    if checkpoint.manifest:
        return _read_shards(checkpoint.path, checkpoint.manifest, model, own)
    values = read_weights(checkpoint.path)
    names = {name for names in model.values() for name in names if not is_of_optimizer(name)}
    _check_names(values, names, checkpoint.path)
    return _select(values, without_optimizer(own), checkpoint.path)


def _read_shards(
    folder: Path, manifest: Manifest, model: Names, own: ByLayer[Tensor]
) -> dict[str, np.ndarray]:
    """Read the tensors of `own` from the shards that hold them, and each of these shards once."""
    layers = manifest.layers
    if not any(is_of_optimizer(name) for names in model.values() for name in names):
        layers = without_optimizer(layers)
    _check_layers(layers, model, folder)
    shard_of = {name: index for layer in own for name, index in layers[layer].items()}
    values: dict[str, np.ndarray] = {}
    for index in sorted(set(shard_of.values())):
        tensors = read_shard(folder, manifest, index)
        values |= {name: tensor for name, tensor in tensors.items() if name in shard_of}
    return _select(values, own, folder)


def _check_layers(found: Names, model: Names, source: Path) -> None:
    for layer, expected in zip_longest(found, model):
        if layer != expected:
            raise _another_model(source, _layer_problem(layer, expected))
    for layer, names in model.items():
        _check_names(found[layer], names, source)


def _layer_problem(found: str | None, expected: str | None) -> str:
    if found is None:
        return f"no layer {expected}"
    if expected is None:
        return f"layer {found:.100}, which the model does not have"
    return f"layer {found:.100} instead of {expected}"


def _check_names(found: Collection[str], expected: Collection[str], source: Path) -> None:
    for name in sorted(expected):
        if name not in found:
            raise _another_model(source, f"no tensor {name}")
    for name in sorted(found):
        if name not in expected:
            raise _another_model(source, f"tensor {name:.100}, which the model does not have")


def _select(
    values: Mapping[str, np.ndarray], own: ByLayer[Tensor], source: Path
) -> dict[str, np.ndarray]:
    """Return the values of `own` after a comparison of their shapes."""
    tensors = flat(own)
    for name, tensor in tensors.items():
        found, expected = list(values[name].shape), list(tensor.shape)
        if found != expected:
            raise _another_model(source, f"{name} of shape {found} instead of {expected}")
    return {name: values[name] for name in tensors}


def _another_model(source: Path, problem: str) -> InputError:
    return InputError(
        f"checkpoint of another model: {source} has {problem}. Use the --model, --blocks, "
        f"--readout and --dataset that it was trained with."
    )
