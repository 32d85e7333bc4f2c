"""Model and optimizer state as named arrays; names do not depend on the split."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from vigmpi.pipeline.adam import Adam


def model_state(model: nn.Module) -> dict[str, np.ndarray]:
    """Return views of weights and running statistics by their names in the complete model."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def optimizer_state(optimizer: Adam) -> dict[str, np.ndarray]:
    """Return views of Adam's state, as `optimizer.` and the keys of `Adam.state`."""
    return {f"optimizer.{name}": tensor.numpy() for name, tensor in optimizer.state.items()}


def load_model(model: nn.Module, values: Mapping[str, np.ndarray]) -> None:
    _load(model.state_dict(), values)


def load_optimizer(optimizer: Adam, values: Mapping[str, np.ndarray]) -> None:
    _load({f"optimizer.{name}": tensor for name, tensor in optimizer.state.items()}, values)


@torch.no_grad()
def _load(tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(torch.tensor(values[name]))
