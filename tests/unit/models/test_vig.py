from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from vigmpi.models import build
from vigmpi.models.model import Model
from vigmpi.models.normalization import MicroBatchNorm
from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.layers import study_layers

SMALL = ViGConfig(blocks=3, grapher_hidden=5, ffn_hidden=7, head_hidden=6, image_size=(4, 3))


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_default_model_has_the_studys_number_of_parameters() -> None:
    model = build()
    assert parameters(model) == 1_120_410
    assert [parameters(block) for block in model.layer_modules[:-1]] == [138_258] * 8
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_parameters_are_named_as_in_the_published_code() -> None:
    linear, norm = ["weight", "bias"], ["weight", "bias", "running_mean", "running_var"]
    names = {f"{fc}.{name}" for fc in ("fc1", "fc2") for name in linear}
    for i in range(8):
        for layer in ("grapher.fc1", "grapher.fc2", "ffn.fc1", "ffn.fc2"):
            names |= {f"blocks.{i}.{layer}.0.{name}" for name in linear}
            names |= {f"blocks.{i}.{layer}.1.{name}" for name in [*norm, "num_batches_tracked"]}
        conv = f"blocks.{i}.grapher.graph_conv"
        names |= {f"{conv}.lin_rel.weight", f"{conv}.lin_rel.bias", f"{conv}.lin_root.weight"}
    for backend in ("fast", "reference"):
        assert set(build(backend=backend).state_dict()) == names


def test_a_stage_has_its_own_blocks_with_the_weights_of_the_full_model() -> None:
    layers = study_layers(SMALL, seed=5)
    complete = Model(layers).state_dict()
    stages = [Model(layers[:2]).state_dict(), Model(layers[2:]).state_dict()]
    assert not stages[0].keys() & stages[1].keys()
    assert {name.split(".")[1] for name in stages[0]} == {"0", "1"}
    for name, value in (stages[0] | stages[1]).items():
        assert torch.equal(value, complete.pop(name))
    assert not complete


def test_blocks_and_seeds_draw_different_weights() -> None:
    name = "grapher.graph_conv.lin_rel.weight"
    first, second = (Model(study_layers(SMALL, seed=seed)).layer_modules for seed in (0, 1))
    a, b = (first[i].get_parameter(name) for i in (0, 1))
    assert not torch.equal(a, b)
    assert not torch.equal(a, second[0].get_parameter(name))


def dense_vig(model: Model, config: ViGConfig, images: np.ndarray) -> np.ndarray:
    """Evaluate the model's formulas in numpy, with a dense adjacency matrix."""
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    _, _, height, width = images.shape
    pixels = np.array([(row, column) for row in range(height) for column in range(width)])
    distances = abs(pixels[:, None] - pixels[None]).max(axis=2)
    adjacency = (distances == 1).astype(float)

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def linear_norm(x: np.ndarray, name: str) -> np.ndarray:
        y = x @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"]
        if model.training:
            mean, variance = y.mean(axis=(0, 1)), y.var(axis=(0, 1))
        else:
            mean, variance = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
        y = (y - mean) / np.sqrt(variance + 1e-5)
        return y * state[f"{name}.1.weight"] + state[f"{name}.1.bias"]

    x = images.reshape(*images.shape[:2], -1).swapaxes(1, 2)
    for i in range(config.blocks):
        block, conv = f"blocks.{i}", f"blocks.{i}.grapher.graph_conv"
        y = linear_norm(x, f"{block}.grapher.fc1")
        y = (
            adjacency @ y @ state[f"{conv}.lin_rel.weight"].T
            + state[f"{conv}.lin_rel.bias"]
            + y @ state[f"{conv}.lin_root.weight"].T
        )
        x = x + linear_norm(gelu(y), f"{block}.grapher.fc2")
        y = gelu(linear_norm(x, f"{block}.ffn.fc1"))
        x = x + linear_norm(y, f"{block}.ffn.fc2")
    pooled = x.mean(axis=1) if config.readout == "mean" else x.sum(axis=1)
    y = gelu(pooled @ state["fc1.weight"].T + state["fc1.bias"])
    return y @ state["fc2.weight"].T + state["fc2.bias"]


@pytest.mark.parametrize("readout", ["sum", "mean"])
@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_matches_its_formulas(training: bool, backend: str, readout: str) -> None:
    config = replace(SMALL, readout=readout)
    model = Model(study_layers(config, backend=backend)).double()
    random = np.random.default_rng()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, MicroBatchNorm):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    assert tensor is not None
                    tensor.copy_(torch.from_numpy(random.uniform(0.5, 2, tensor.shape)))
    images = random.random((4, 3, 4, 3))
    expected = dense_vig(model.train(training), config, images)
    np.testing.assert_allclose(
        model(torch.from_numpy(images)).detach().numpy(), expected, rtol=1e-10, atol=1e-10
    )


def test_an_unknown_backend_is_refused() -> None:
    for name in ("study", "vig_ti"):
        with pytest.raises(ValueError, match=r"one of \('fast', 'reference'\), not 'collapsed'"):
            build(name, backend="collapsed")
