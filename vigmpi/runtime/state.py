"""A model and its optimizer as named arrays, the same names whatever the split."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

_OPTIMIZER = ("exp_avg", "exp_avg_sq", "step")


def model_state(model: nn.Module) -> dict[str, np.ndarray]:
    """Weights and running statistics by their names in the whole model; views, not copies."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def optimizer_state(model: nn.Module, optimizer: torch.optim.Adam) -> dict[str, np.ndarray]:
    """Adam's moments and step counts, as `optimizer.<what>.<name of the weight>`."""
    return {name: tensor.numpy() for name, tensor in _of_adam(model, optimizer).items()}


@torch.no_grad()
def load_model(model: nn.Module, values: Mapping[str, np.ndarray]) -> None:
    for name, tensor in model.state_dict().items():
        tensor.copy_(torch.tensor(values[name]))


@torch.no_grad()
def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Adam, values: Mapping[str, np.ndarray]
) -> None:
    for name, tensor in _of_adam(model, optimizer).items():
        tensor.copy_(torch.tensor(values[name]))


def _of_adam(model: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """The optimizer's tensors; zeros, as before its first step, where there are none yet."""
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        state = optimizer.state[weight]
        if not state:  # Adam makes it at its first step
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        found |= {f"optimizer.{what}.{name}": state[what] for what in _OPTIMIZER}
    return found
