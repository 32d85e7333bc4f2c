"""The ViG family against results of the published code, in float64 and on replayed graphs."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tests import vig_recipe
from tests.vig_fixtures import WHOLE_MODELS, Fixture, load, statistics
from vigmpi.graphs import neighbours
from vigmpi.kernels import norm_activation
from vigmpi.kernels.threads import over_images
from vigmpi.models import build
from vigmpi.models.layer import MicroBatch
from vigmpi.models.model import Model
from vigmpi.models.vig.block import DropPath, Grapher
from vigmpi.models.vig.layers import (
    OPERATIONS,
    make_downsample,
    make_feed_forward,
    make_grapher,
    make_stem,
)
from vigmpi.models.vig.positions import relative_positions, resized
from vigmpi.models.vig.replay import Graphs, record_graphs, replay_graphs
from vigmpi.models.vig.variant import NeighbourSearch, Variant, isotropic, pyramid

FLOAT64, GRADIENT, ROUNDED = 1e-10, 1e-8, 2e-7  # tolerances, relative to the largest value
ZERO = 1e-8  # of the model's largest gradient: below, a gradient is zero in truth
BACKENDS = ("fast", "reference")


def make(fixture: Fixture, name: str, backend: str) -> Model:
    model, conv = WHOLE_MODELS[name]
    size = tuple(fixture.text("input_shape")[2:])
    built = build(model, backend=backend, conv=conv, num_classes=10, image_size=size)
    load(built.double(), fixture.weights())
    return built


def assert_close(
    actual: Tensor | NDArray[np.floating], expected: NDArray[np.floating], tolerance: float
) -> None:
    error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
    assert error <= tolerance


def assert_same_graphs(graphs: Graphs, fixture: Fixture, *, training: bool) -> None:
    phase = "train" if training else "eval"
    for block, expected in fixture.group(f"{phase}_knn_idx"):
        found = np.stack(
            [graphs[f"block {block}", training, 0, image] for image in range(len(expected))]
        )
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))


def outputs_of_backbone(model: Model) -> list[Tensor]:
    """Return a list that the outputs of blocks and downsampling layers are appended to."""
    outputs: list[Tensor] = []
    for layer, module in zip(model.layers, model.layer_modules, strict=True):
        if layer.prefix.startswith("backbone"):
            module.register_forward_hook(lambda *arguments: outputs.append(arguments[2].detach()))
    return outputs


def assert_gradients(gradients: dict[str, Tensor | None], fixture: Fixture) -> None:
    expected = dict(fixture.group("grad_stats_f64"))
    largest = max(row[2] for row in expected.values())
    for name, row in expected.items():
        gradient = gradients[name]
        found = np.zeros(5) if gradient is None else statistics(gradient)
        if row[2] < ZERO * largest:
            assert found[2] < ZERO * largest, name
        else:
            np.testing.assert_allclose(found[1:], row[1:], 0, GRADIENT * row[2], err_msg=name)
    for name, values in fixture.group("grads_f64_as_f32"):
        if expected[name][2] >= ZERO * largest:
            assert_close(gradients[name], values, ROUNDED)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_a_model_equals_the_published_code(name: str, backend: str) -> None:
    fixture = Fixture(name)
    model = make(fixture, name, backend)
    images = torch.from_numpy(vig_recipe.image(vig_recipe.SEED, fixture.text("input_shape")))
    labels = torch.from_numpy(fixture.array("labels"))
    graphs: Graphs = {}
    record_graphs(model, graphs)
    outputs = outputs_of_backbone(model)

    with torch.no_grad():
        assert_close(model.eval()(images), fixture.array("eval_f64"), FLOAT64)
    assert_same_graphs(graphs, fixture, training=False)
    for output, row in zip(outputs, fixture.array("eval_block_stats_f64"), strict=True):
        assert_close(statistics(output), row, FLOAT64)

    outputs.clear()
    logits = model.train()(images)
    assert_close(logits.detach(), fixture.array("train_f64"), FLOAT64)
    assert_same_graphs(graphs, fixture, training=True)
    for output, row in zip(outputs, fixture.array("train_block_stats_f64"), strict=True):
        assert_close(statistics(output), row, FLOAT64)
    loss = F.cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(fixture.text("train_loss_f64"), rel=FLOAT64)
    loss.backward()
    assert_gradients({name: p.grad for name, p in model.named_parameters()}, fixture)
    state = model.state_dict()
    for key, row in fixture.group("bn_after_f64"):
        assert_close(statistics(state[key]), row, FLOAT64)


_KERNELS = {
    "mr": {"max_relative", "max_relative_adjoint"},
    "edge": {"extreme", "extreme_adjoint", "edge_sums", "edge_sums_adjoint"},
    "sage": {"extreme", "extreme_adjoint"},
    "gin": {"neighbour_sum", "neighbour_sum_adjoint"},
}
_COMMON = {"nearest", "sums", "normalise", "add_normalised", "adjoint", "dots", "blend"}


@pytest.mark.parametrize("conv", _KERNELS)
def test_the_compiled_kernels_compute_the_fixtures_in_float64(
    conv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kernels run, none falls back, and an altered kernel changes the result."""
    name = next(key for key, (_, each) in WHOLE_MODELS.items() if each == conv)
    fixture = Fixture(name)
    images = torch.from_numpy(vig_recipe.image(vig_recipe.SEED, fixture.text("input_shape")))
    called: dict[str, int] = {}
    altered = ""

    def counting(kernel: Callable[..., Any], num_images: int, *arguments: Any) -> None:
        assert all(
            array.dtype in (np.float64, np.int64, np.uint8)
            for array in arguments
            if isinstance(array, np.ndarray)
        )
        called[kernel.__name__] = called.get(kernel.__name__, 0) + 1
        over_images(kernel, num_images, *arguments)
        if kernel.__name__ == altered:
            outputs = [array for array in arguments if isinstance(array, np.ndarray)]
            # The last array is the result, or the winners' ranks behind it.
            outputs[-2 if outputs[-1].dtype == np.uint8 else -1][...] += 1

    for module in (norm_activation, neighbours):
        monkeypatch.setattr(module, "over_images", counting)

    def results() -> Tensor:
        model = make(fixture, name, "fast").train()
        logits = model(images)
        F.cross_entropy(logits, torch.arange(len(images))).backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return torch.cat([logits.detach().flatten(), *gradients])

    expected = results()
    assert called.keys() == _COMMON | _KERNELS[conv]
    for altered in (_COMMON | _KERNELS[conv]) - {"nearest"}:  # other rows would not exist
        assert not results().equal(expected), altered


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_tensors_have_the_names_the_order_and_the_shapes_of_the_published_code(name: str) -> None:
    fixture = Fixture(name)
    model = make(fixture, name, "fast")
    found = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    assert found == [entry[:2] for entry in fixture.text("state_dict")]
    assert sum(p.numel() for p in model.parameters()) == fixture.text("n_params")
    trainable = sum(p.numel() for _, p in model.trainable_parameters())
    assert trainable == fixture.text("n_trainable")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_in_fp32_a_model_equals_the_published_code_on_its_graphs(name: str, backend: str) -> None:
    fixture = Fixture(name)
    model = make(fixture, name, backend).float()
    images = torch.from_numpy(vig_recipe.image(vig_recipe.SEED, fixture.text("input_shape")))
    graphs: Graphs = {
        (f"block {block}", training, 0, image): rows
        for phase, training in (("eval", False), ("train", True))
        for block, index in fixture.group(f"{phase}_knn_idx")
        for image, rows in enumerate(index)
    }
    replay_graphs(model, graphs)
    with torch.no_grad():
        assert_close(model.eval()(images.float()), fixture.array("eval_f64"), 2e-6)
        # The head's norm over two or three images amplifies rounding.
        assert_close(model.train()(images.float()), fixture.array("train_f64"), 5e-5)


def unit(name: str, shape: list[int], backend: str) -> nn.Module:
    """Return the module that a unit of the fixtures was computed with."""
    _, channels, height, width = shape
    operations = OPERATIONS[backend]
    if name.startswith("stem"):
        variant = isotropic(48, 4) if "isotropic" in name else pyramid((32,), (1,))
        nodes = height // variant.patch, width // variant.patch
        return make_stem(variant, (variant.channels[0], *nodes), operations)
    variant = pyramid((32,), (1,)) if "relpos" in name else isotropic(32, 1)
    if name.startswith("downsample"):
        return make_downsample(variant, 16, (32, height // 2, width // 2), operations)
    features = channels, height, width
    if name.startswith("ffn"):
        return make_feed_forward(variant, features, operations, DropPath(0))
    conv = name.split("_")[1]
    module = make_grapher(variant, features, search(name), operations, conv, DropPath(0))
    if "on_16x16" in name:
        assert module.relative_pos is not None
        table = relative_positions(14, 14, 32, 2)
        resized_table = resized("relative_pos", table, module.relative_pos.shape)
        assert resized_table is not None
        module.relative_pos.data = resized_table
    return module


def search(name: str) -> NeighbourSearch:
    k = re.search(r"_k(\d+)", name)
    dilation = re.search(r"_d(\d)", name)
    reduction = re.search(r"_r(\d)_", name)
    if name.endswith("nonsquare_10x14"):
        return NeighbourSearch(9, 2, 1)
    return NeighbourSearch(
        int(k[1]) if k else 9,
        int(dilation[1]) if dilation else 1,
        int(reduction[1]) if reduction else 1,
    )


UNITS = (
    *("stem_isotropic_48", "stem_pyramid_32", "downsample_16_32", "ffn_32_128"),
    *("grapher_mr_k9_d1", "grapher_mr_k9_d2", "grapher_mr_k12_d3", "grapher_edge_k9_d2"),
    *("grapher_sage_k9_d2", "grapher_gin_k9_d2", "grapher_mr_nonsquare_10x14"),
    *("grapher_mr_r1_relpos_n196_d3", "grapher_mr_r2_relpos_n196", "grapher_mr_r4_relpos_n784"),
    "grapher_mr_r2_relpos_n196_on_16x16",
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", UNITS)
def test_a_single_layer_equals_the_published_code(name: str, backend: str) -> None:
    fixture = Fixture("units", name)
    shape, index = fixture.text("input_shape"), fixture.text("input_index")
    module = unit(name, shape, backend).double()
    prefix = "stem." if name.startswith("stem") else ""
    load(module, {prefix + key: tensor for key, tensor in fixture.weights().items()})
    micro_batch = MicroBatch(np.arange(shape[0]), 0)
    indices: list[Tensor] = []
    if isinstance(module, Grapher):
        find = module.find_nearest

        def recording(*arguments: Tensor) -> Tensor:
            indices.append(find(*arguments))  # type: ignore[arg-type]
            return indices[-1]

        module.find_neighbours = recording  # type: ignore[assignment]
        if module.relative_pos is not None and "on_16x16" not in name:
            assert_close(module.relative_pos.detach(), fixture.array("relative_pos"), ROUNDED)

    x = torch.from_numpy(vig_recipe.tensor(vig_recipe.SEED, index, shape)).requires_grad_()
    with torch.no_grad():
        output = module.eval()(x, micro_batch)
    assert output.sum().item() == pytest.approx(fixture.text("eval_sum"), rel=FLOAT64)
    assert_close(output, fixture.array("eval"), ROUNDED)
    output = module.train()(x, micro_batch)
    assert output.sum().item() == pytest.approx(fixture.text("train_sum"), rel=FLOAT64)
    assert_close(output.detach(), fixture.array("train"), ROUNDED)
    assert len(indices) == 2 * isinstance(module, Grapher)
    for phase, found in zip(("eval", "train")[: len(indices)], indices, strict=True):
        expected = fixture.array(f"knn_idx_{phase}")
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))

    gradient = vig_recipe.tensor(vig_recipe.SEED, 500 + index, tuple(output.shape))
    output.backward(torch.from_numpy(gradient))
    assert_close(x.grad, fixture.array("grad_input"), ROUNDED)  # type: ignore[arg-type]
    gradients = {name.removeprefix(prefix): p.grad for name, p in module.named_parameters()}
    expected_gradients = dict(fixture.group("grad_params"))
    largest = max(np.abs(values).max() for values in expected_gradients.values())
    for key, values in expected_gradients.items():
        found_gradient = gradients[key]
        if np.abs(values).max() < ZERO * largest:
            assert found_gradient is None or found_gradient.abs().max() < ZERO * largest, key
        else:
            assert_close(found_gradient, values, ROUNDED)  # type: ignore[arg-type]
    state = module.state_dict()
    for key, values in fixture.group("bn_after"):
        np.testing.assert_allclose(state[prefix + key], values, rtol=FLOAT64, atol=FLOAT64)


def tables() -> Iterator[str]:
    yield from dict(Fixture("units").group("relative_pos_tables"))


@pytest.mark.parametrize("key", sorted({name.rpartition("/")[0] for name in tables()}))
def test_relative_positions_are_those_of_the_published_code(key: str) -> None:
    fixture = Fixture("units", f"relative_pos_tables/{key}")
    nodes, channels, reduction = map(int, re.findall(r"\d+", key))
    side = round(nodes**0.5)
    table = relative_positions(side, side, channels, reduction)[0].numpy()
    assert_close(statistics(table), fixture.array("stats"), 1e-6)
    assert_close(table[:4, :4], fixture.array("corner"), 1e-6)
    assert_close(table[nodes // 2, :8], fixture.array("mid"), 1e-6)


def test_the_number_of_neighbours_grows_as_in_the_published_code() -> None:
    for key, text in Fixture("units").group("k_schedule"):
        k, blocks = map(int, re.findall(r"\d+", key))
        variant = Variant(((8, 1),), (8,), (blocks,), (1,), (k, 2 * k), 1)
        assert str([variant.search(block).k for block in range(blocks)]) == str(text), key
