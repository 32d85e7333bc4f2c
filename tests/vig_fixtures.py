"""Small models and results of the published ViG code, computed in float64 (`tests/fixtures`)."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import vig_recipe
from vigmpi.models import ModelEntry
from vigmpi.models.vig.layers import vig_layers
from vigmpi.models.vig.variant import isotropic, pyramid

FOLDER = Path(__file__).parent / "fixtures"

vig_mini = partial(vig_layers, isotropic(48, 4))
vig_mini_9blocks = partial(vig_layers, isotropic(48, 9))
vig_mini_nodil_relu = partial(vig_layers, isotropic(48, 4, max_dilation=1, relu=True))
pvig_mini = partial(vig_layers, pyramid((16, 32, 48, 64), (1, 1, 2, 1)))

# Name of the fixture: model and graph convolution.
WHOLE_MODELS = {
    "vig_mini_mr": ("vig_mini", "mr"),
    "vig_mini_edge": ("vig_mini", "edge"),
    "vig_mini_sage": ("vig_mini", "sage"),
    "vig_mini_gin": ("vig_mini", "gin"),
    "vig_mini_mr_9blocks": ("vig_mini_9blocks", "mr"),
    "vig_mini_mr_nodil_relu": ("vig_mini_nodil_relu", "mr"),
    "pvig_mini_mr": ("pvig_mini", "mr"),
}
OPTIONS = ("conv", "drop_path", "precision", "matmul")
SMALL_MODELS = {
    name: ModelEntry(f"tests.vig_fixtures:{name}", "small", OPTIONS, multiple)
    for name, multiple in (
        ("vig_mini", 16),
        ("vig_mini_9blocks", 16),
        ("vig_mini_nodil_relu", 16),
        ("pvig_mini", 32),
    )
}


class Fixture:
    """Arrays and texts of one fixture, or of one unit of `units.npz`."""

    def __init__(self, file: str, unit: str = "") -> None:
        self._arrays = np.load(FOLDER / f"{file}.npz", allow_pickle=False)
        self._prefix = f"{unit}/" if unit else ""

    def array(self, name: str) -> NDArray[Any]:
        return self._arrays[self._prefix + name]

    def text(self, name: str) -> Any:
        return json.loads(str(self.array(name)))

    def group(self, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the last part of the name and the values of all arrays of a group."""
        prefix = f"{self._prefix}{name}/"
        for key in self._arrays.files:
            if key.startswith(prefix):
                yield key.removeprefix(prefix), self._arrays[key]

    def weights(self) -> dict[str, Tensor]:
        """Return the filled tensors of the model or unit by name."""
        shapes, roles = self.text("fill_shapes"), self.text("fill_roles")
        values = vig_recipe.fill(vig_recipe.SEED, shapes, roles)
        return dict(zip(self.text("fill_keys"), map(torch.from_numpy, values), strict=True))


def statistics(values: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    """Return mean, biased deviation, largest absolute value, first and last element."""
    flat = np.ascontiguousarray(values).ravel()
    return np.array([flat.mean(), flat.std(), np.abs(flat).max(), flat[0], flat[-1]])


def load(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load filled tensors; tables of positions and counters stay as they are."""
    state = module.state_dict()
    assert not set(weights) - set(state)
    module.load_state_dict(state | dict(weights))
