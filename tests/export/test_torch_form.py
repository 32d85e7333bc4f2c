"""Layers in standard operations against the layers of the models."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.export.exports import random_generator, study, with_statistics
from vigmpi.export.torch_form import ExportableLayer, _smallest, exportable_layers
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import Model
from vigmpi.models.normalization import MicroBatchNorm
from vigmpi.models.vig.layers import vig_layers
from vigmpi.models.vig.variant import Variant

SMALL = {
    "pyramid": Variant(
        ((8, 2), (12, 1)), (12, 16), (1, 2), (2, 1), (3, 5), 2, relative_positions=True, hidden=20
    ),
    "residual": Variant(
        ((8, 2),),
        (8, 12),
        (0, 1),
        (1, 1),
        (4, 4),
        1,
        groups=1,
        hidden=None,
        bias=False,
        residuals=(1, 1),
    ),
    "relu": Variant(((8, 4),), (8,), (2,), (1,), (2, 3), 1, relu=True),
}


def small_vig(name: str, conv: str = "mr", size: int = 16) -> Model:
    """Return a ViG of the reference backend with float64 weights and random statistics."""
    random = random_generator()
    config = ModelConfig(5, (size, size), conv=conv)
    seed = int(random.integers(2**31))
    model = Model(vig_layers(SMALL[name], config, backend="reference", seed=seed)).eval()
    return with_statistics(model.double(), random)


def outputs(layers: list[ExportableLayer], values: Tensor) -> Tensor:
    for layer in layers:
        values = layer(values)
        assert values.is_contiguous()
    return values


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "conv"), [*product(SMALL, ["mr"]), *product(["relu"], ["edge", "sage", "gin"])]
)
@pytest.mark.parametrize("number", [1, 4])
def test_logits_are_those_of_the_model(name: str, conv: str, number: int) -> None:
    model = small_vig(name, conv)
    images = torch.from_numpy(random_generator().normal(size=(number, 3, 16, 16)))
    expected = model(images)
    layers = exportable_layers(model, torch.float64)
    norms = [
        each for layer in layers for each in layer.modules() if isinstance(each, MicroBatchNorm)
    ]
    assert len(norms) == (SMALL[name].hidden is None)  # one follows the mean of a linear head
    actual = outputs(layers, images)
    assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "readout"), [((8, 6), "mean"), ((1, 9), "sum"), ((7, 1), "mean"), ((1, 1), "mean")]
)
def test_logits_of_the_study_are_those_of_the_model(size: tuple[int, int], readout: str) -> None:
    model = study(size, 2, readout).double()
    images = torch.from_numpy(random_generator().normal(size=(3, 3, *size)))
    expected = model(images)
    actual = outputs(exportable_layers(model, torch.float64), images)
    assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_distances_are_ordered_by_index(dtype: torch.dtype) -> None:
    random = random_generator()
    values = torch.from_numpy(random.integers(-3, 4, (50, 40))).to(dtype) / 4
    values[:, ::7] = -0.0  # equal to 0
    expected = np.argsort(values.numpy(), axis=1, kind="stable")
    for count in (1, 5, 40):
        np.testing.assert_array_equal(_smallest(values, count), expected[:, :count])


def test_values_of_all_magnitudes_are_ordered() -> None:
    random = random_generator()
    magnitudes = 10.0 ** random.uniform(-40, 38, (20, 100)) * random.choice([-1, 1], (20, 100))
    values = torch.from_numpy(magnitudes.astype(np.float32))
    expected = np.argsort(values.numpy(), axis=1, kind="stable")
    np.testing.assert_array_equal(_smallest(values, 100), expected)
