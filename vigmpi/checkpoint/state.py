"""State of a stage or a model: tensors by layer, with names that do not depend on the split."""

from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from vigmpi.models.model import Model

_OPTIMIZER = "optimizer."

T = TypeVar("T")
ByLayer = Mapping[str, Mapping[str, T]]  # by the names of layers and of their tensors
Names = Mapping[str, Collection[str]]  # of tensors, by layer


def state_by_layer(
    model: Model, optimizer: Mapping[str, Tensor] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Return weights and running statistics, and the optimizer's state as `optimizer.KEY`.

    Args:
        optimizer: `Adam.state`, whose keys are a quantity, a dot and the name of a weight.
    """
    state = {
        layer.name: {layer.prefix + name: tensor for name, tensor in module.state_dict().items()}
        for layer, module in zip(model.layers, model.layer_modules, strict=True)
    }
    layer_of = {name: layer for layer, tensors in state.items() for name in tensors}
    for key, tensor in (optimizer or {}).items():
        weight = key.partition(".")[2]
        state[layer_of[weight]][_OPTIMIZER + key] = tensor
    return state


def flat(state: ByLayer[T]) -> dict[str, T]:
    return {name: value for tensors in state.values() for name, value in tensors.items()}


def is_of_optimizer(name: str) -> bool:
    return name.startswith(_OPTIMIZER)


def without_optimizer(state: ByLayer[T]) -> dict[str, dict[str, T]]:
    return {
        layer: {name: value for name, value in tensors.items() if not is_of_optimizer(name)}
        for layer, tensors in state.items()
    }


def share_of_replica(
    state: ByLayer[Tensor], replica: int, replicas: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return views of the tensors that a replica saves, by layer.

    All replicas hold the same state, and each saves a part of it.
    """
    own = set(sorted(flat(state))[replica::replicas])
    return {
        layer: {name: tensor.numpy() for name, tensor in tensors.items() if name in own}
        for layer, tensors in state.items()
    }


@torch.no_grad()
def copy_into(state: ByLayer[Tensor], values: Mapping[str, np.ndarray]) -> None:
    """Copy values, by name, into all tensors of a state."""
    for name, tensor in flat(state).items():
        tensor.copy_(torch.tensor(values[name]))
