"""State of a stage or a model: tensors by layer, with names that do not depend on the split."""

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vigmpi.checkpoint.tensor_names import average_of, of_optimizer
from vigmpi.models.model import Model

T = TypeVar("T")
ByLayer = Mapping[str, Mapping[str, T]]  # by the names of layers and of their tensors
Names = Mapping[str, Collection[str]]  # of tensors, by layer


def state_by_layer(
    model: Model,
    optimizer: Mapping[str, Tensor] | None = None,
    averages: Mapping[str, Tensor] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Return weights and running statistics, and the state that only a training has.

    Args:
        optimizer: `AdamW.state`, whose keys are a quantity, a dot and the name of a weight; it is
            returned as `optimizer.KEY`.
        averages: `Averages.state`, returned as `ema.NAME`.
    """
    state = {
        layer.name: {layer.prefix + name: tensor for name, tensor in module.state_dict().items()}
        for layer, module in zip(model.layers, model.layer_modules, strict=True)
    }
    layer_of = {name: layer for layer, tensors in state.items() for name in tensors}
    for key, tensor in (optimizer or {}).items():
        weight = key.partition(".")[2]
        state[layer_of[weight]][of_optimizer(key)] = tensor
    for name, tensor in (averages or {}).items():
        state[layer_of[name]][average_of(name)] = tensor
    return state


def flat(state: ByLayer[T]) -> dict[str, T]:
    return {name: value for tensors in state.values() for name, value in tensors.items()}


def select(state: ByLayer[T], condition: Callable[[str], bool]) -> dict[str, dict[str, T]]:
    """Return the tensors for whose names a condition holds."""
    return {
        layer: {name: value for name, value in tensors.items() if condition(name)}
        for layer, tensors in state.items()
    }


def share_of_copy(
    state: ByLayer[Tensor], copy: int, copies: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return views of the tensors that one of a stage's copies saves, by layer.

    The ranks of all replicas and parts hold the same state, and each saves a share of it.
    """
    own = set(sorted(flat(state))[copy::copies])
    return {
        layer: {name: tensor.numpy() for name, tensor in tensors.items() if name in own}
        for layer, tensors in state.items()
    }


@torch.no_grad()
def copy_into(state: ByLayer[Tensor], values: Mapping[str, np.ndarray]) -> None:
    """Copy values, by name, into all tensors of a state."""
    for name, tensor in flat(state).items():
        tensor.copy_(torch.tensor(values[name]))
