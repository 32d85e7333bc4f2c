"""Loading a checkpoint or a weights-only file, strictly: it must hold the model and no more."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vigmpi.checkpoint.manifest import DamagedError, Manifest, reason_of
from vigmpi.checkpoint.search import Checkpoint
from vigmpi.checkpoint.shards import read_shard
from vigmpi.checkpoint.state import (
    ByLayer,
    Names,
    copy_into,
    flat,
    select,
)
from vigmpi.checkpoint.tensor_names import average_of, is_average, is_of_optimizer
from vigmpi.checkpoint.weights import read_weights
from vigmpi.errors import InputError
from vigmpi.models import MODELS
from vigmpi.models.config import ModelConfig
from vigmpi.models.vig.positions import resized

T = TypeVar("T")


def load(
    checkpoint: Checkpoint,
    model: Names,
    own: ByLayer[Tensor],
    together: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Checkpoint:
    """Load layers from a checkpoint, or from the first undamaged one of its `older`.

    If `own` includes the state of a training, and a training is continued, this state is loaded,
    too. Otherwise, weights and running statistics are taken from their moving averages, if the
    checkpoint has these and `use_averages` is true. Position tables of another image size are
    interpolated.

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
    head, averages = checkpoint.replace_head, checkpoint.use_averages
    for each in (checkpoint, *checkpoint.older):
        candidate = replace(each, replace_head=head, use_averages=averages)
        selection = _selection(candidate, model)
        try:
            with together():
                values, notes = _read(candidate, model, own, selection)
        except DamagedError as error:
            errors.append(error)
        else:
            copy_into(selection(own), values)
            return replace(
                candidate,
                skipped=[*checkpoint.skipped, *map(reason_of, errors)],
                notes=notes,
                older=(),
            )
    raise errors[0]


class _Selection(NamedTuple):
    """Filter of the layers and tensors to load.

    Attributes:
        head: layer that is left out, or None.
        optimizer: whether the optimizer's state is loaded.
        averages: whether the moving averages are loaded as such.
        use_averages: whether weights and running statistics are taken from the moving averages.
    """

    head: str | None
    optimizer: bool
    averages: bool
    use_averages: bool

    def __call__(self, state: ByLayer[T]) -> dict[str, dict[str, T]]:
        selected = select(state, self._includes)
        return {layer: tensors for layer, tensors in selected.items() if layer != self.head}

    def _includes(self, name: str) -> bool:
        return (self.optimizer or not is_of_optimizer(name)) and (
            self.averages or not is_average(name)
        )


def _selection(checkpoint: Checkpoint, model: Names) -> _Selection:
    def some(condition: Callable[[str], bool]) -> bool:
        return any(condition(name) for names in model.values() for name in names)

    head = [*model][-1] if checkpoint.replace_head else None
    continues = some(is_of_optimizer) and checkpoint.continued is not None
    averages = continues and some(is_average) and checkpoint.has_averages
    use_averages = not continues and checkpoint.has_averages and checkpoint.use_averages
    return _Selection(head, continues, averages, use_averages)


def check_convolution(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Raise InputError if the checkpoint's model has another graph convolution.

    Tensors of max-relative convolutions and of EdgeConv have the same names and shapes.
    """
    if checkpoint.manifest and (found := checkpoint.manifest.model_config.conv) != config.conv:
        raise _another_model(checkpoint.path, f"conv {found} instead of {config.conv}")


def check_configuration(checkpoint: Checkpoint, model: str, config: ModelConfig) -> None:
    """Raise InputError if the checkpoint's model has another name or configuration."""
    if manifest := checkpoint.manifest:
        if manifest.model != model:
            raise _another_model(checkpoint.path, f"model {manifest.model} instead of {model}")
        found = asdict(manifest.model_config)
        # Drop path does not change the function, precision and library only its rounding; position
        # tables follow the image size.
        free = {"drop_path", "precision", "matmul"} | (
            {"image_size"} if MODELS[model].multiple > 1 else set()
        )
        for name, value in asdict(config).items():
            if found[name] != value and name not in free:
                raise _another_model(checkpoint.path, f"{name} {found[name]} instead of {value}")


def _read(
    checkpoint: Checkpoint, model: Names, own: ByLayer[Tensor], selection: _Selection
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the selected tensors of `own`; return them and which position table was resized."""
    names = {layer: dict.fromkeys(tensors) for layer, tensors in model.items()}
    expected, own = selection(names), selection(own)
    if checkpoint.manifest:
        values = _read_shards(checkpoint.path, checkpoint.manifest, expected, own, selection)
    else:
        replaced = model[selection.head] if selection.head else ()
        tensors = read_weights(checkpoint.path)
        values = {name: value for name, value in tensors.items() if name not in replaced}
        _check_names(values, flat(expected), checkpoint.path)
    conforming, notes = _conform(values, own, checkpoint.path)
    if selection.use_averages:
        notes = (*notes, "weights are the moving averages that the training kept")
    return conforming, notes


def _read_shards(
    folder: Path,
    manifest: Manifest,
    expected: ByLayer[None],
    own: ByLayer[Tensor],
    selection: _Selection,
) -> dict[str, np.ndarray]:
    """Read the tensors of `own` from the shards that hold them, and each of these shards once."""
    _check_layers(selection(manifest.layers), expected, folder)
    shard_of = flat(manifest.layers)
    if selection.use_averages:
        averages = selection._replace(averages=True)(select(manifest.layers, is_average))
        _check_no_other(flat(averages), set(map(average_of, flat(expected))), folder)
    names = {name: _name_in_shard(name, shard_of, selection) for name in flat(own)}
    values: dict[str, np.ndarray] = {}
    for index in sorted({shard_of[stored] for stored in names.values()}):
        tensors = read_shard(folder, manifest, index)
        values |= {name: tensors[found] for name, found in names.items() if found in tensors}
    return values


def _name_in_shard(name: str, stored: Collection[str], selection: _Selection) -> str:
    average = average_of(name)
    return average if selection.use_averages and average in stored else name


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
    _check_no_other(found, expected, source)


def _check_no_other(found: Collection[str], expected: Collection[str], source: Path) -> None:
    for name in sorted(found):
        if name not in expected:
            raise _another_model(source, f"tensor {name:.100}, which the model does not have")


def _conform(
    values: Mapping[str, np.ndarray], own: ByLayer[Tensor], source: Path
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the values of `own` in its shapes, and a note if position tables were resized."""
    conforming: dict[str, np.ndarray] = {}
    notes = []
    for name, tensor in flat(own).items():
        value = conforming[name] = values[name]
        if value.shape != tensor.shape:
            table = _resized(name, torch.tensor(value), tensor.shape)
            if table is None:
                found, expected = list(value.shape), list(tensor.shape)
                problem = f"{name} of shape {found} instead of {expected}"
                raise _another_model(source, problem)
            conforming[name] = table.numpy()
            sizes = ["x".join(map(str, each.shape[-2:])) for each in (value, tensor)]
            change = f"{name} from {' to '.join(sizes)}"
            notes.append(f"position tables interpolated to another image size: {change}")
    return conforming, tuple(notes[:1])


def _resized(name: str, table: Tensor, shape: torch.Size) -> Tensor | None:
    """Return a table of positions for another image size, or zeros for the moments of one."""
    if not is_of_optimizer(name):
        return resized(name, table, shape)
    is_table = resized(name, table, shape) is not None
    return table.new_zeros(shape) if is_table else None


def _another_model(source: Path, problem: str) -> InputError:
    return InputError(
        f"checkpoint of another model: {source} has {problem}. Use the --model, its "
        f"options and the --dataset that it was trained with; in training, --replace-head allows "
        f"other classes."
    )
