"""Properties of the ViG family that the fixtures of the published code do not cover."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from vigmpi.errors import InputError
from vigmpi.kernels import pointwise
from vigmpi.models import MODELS, build
from vigmpi.models.config import ModelConfig
from vigmpi.models.layer import MicroBatch
from vigmpi.models.model import Model, make_layers
from vigmpi.models.vig.positions import relative_positions, resized
from vigmpi.models.vig.replay import Graphs, record_graphs, replay_graphs

CONVOLUTIONS = ("mr", "edge", "sage", "gin")


@pytest.mark.parametrize(
    ("name", "parameters", "trainable"),
    [
        ("vig_ti", 7_184_744, 7_184_744),
        ("vig_s", 22_747_752, 22_747_752),
        ("vig_b", 86_841_832, 86_841_832),
        ("pvig_ti", 12_486_314, 10_714_376),
        ("pvig_s", 29_023_850, 27_251_912),
        ("pvig_m", 51_681_930, 49_525_832),
        ("pvig_b", 95_213_258, 92_980_328),
        ("vig_cifar", 1_510_058, 1_510_058),
    ],
)
def test_a_model_has_the_published_number_of_parameters(
    name: str, parameters: int, trainable: int
) -> None:
    entry = MODELS[name]
    with torch.device("meta"):
        model = build(name, num_classes=entry.num_classes, image_size=entry.image_size)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for _, p in model.trainable_parameters()) == trainable


@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_backends_start_from_the_same_weights_and_agree(conv: str) -> None:
    """Several images and nodes choose the same candidates, some candidates are never chosen."""
    images = torch.rand(4, 3, 64, 96, dtype=torch.float64)
    labels = torch.arange(4)
    results = []
    for backend in ("fast", "reference"):
        model = build(
            "pvig_mini", backend=backend, conv=conv, num_classes=4, image_size=(64, 96), seed=5
        ).double()
        for _ in range(2):  # the second pass uses changed running statistics and gradients
            logits = model.train()(images)
            F.cross_entropy(logits, labels).backward()
        evaluated = model.eval()(images)
        state = {key: value.double() for key, value in model.state_dict().items()}
        gradients = {f"gradient of {k}": p.grad for k, p in model.named_parameters()}
        results.append(state | gradients | {"training": logits, "evaluation": evaluated})
    fast, reference = results
    assert fast.keys() == reference.keys()
    largest = max(
        g.abs().max().item() for k, g in reference.items() if g is not None and "gradient" in k
    )
    for name, expected in reference.items():
        actual = fast[name]
        if expected is None or actual is None:
            assert expected is actual, name
            continue
        scale = largest if "gradient" in name else max(1.0, expected.abs().max().item())
        error = (actual - expected).abs().max().item()
        assert error <= 1e-10 * scale, name


@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_the_fast_backend_keeps_no_features_of_edges(conv: str) -> None:
    """A dense gather would save [images, channels, nodes, k] values for the backward pass."""
    sizes = {}
    for backend in ("fast", "reference"):
        layers = make_layers("vig_mini", ModelConfig(10, (224, 224), conv=conv), backend=backend)
        layer = layers[1]
        channels, height, width = layer.inputs.shape
        module = layer.build()
        kept: list[int] = []

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel() if tensor.is_floating_point() else 0)
            return tensor

        x = layer.inputs.conform(torch.rand(2, channels, height, width)).requires_grad_()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            module(x, MicroBatch(np.arange(2), 0))
        sizes[backend] = max(kept)
        edges = 2 * channels * height * width * 9
    assert sizes["fast"] < edges / 2
    if conv in ("edge", "sage"):  # torch's maximum and sum keep no values of their input
        assert sizes["reference"] >= edges


@pytest.mark.parametrize("backend", ["fast", "reference"])
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_results_are_the_same_in_every_run_with_several_threads(conv: str, backend: str) -> None:
    """Candidates are chosen by many nodes, whose gradients are added in a fixed order."""
    model = build("pvig_mini", backend=backend, conv=conv, image_size=(96, 96), seed=1)
    images = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        results = []
        for _ in range(3):
            model.zero_grad()
            F.cross_entropy(model(images), torch.arange(3)).backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            results.append(torch.cat([gradient.flatten() for gradient in gradients]))
    finally:
        torch.set_num_threads(threads)
    assert results[0].equal(results[1])
    assert results[0].equal(results[2])


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        *(("vig_mini", size) for size in ((16, 16), (32, 48), (64, 16))),
        *(("pvig_mini", size) for size in ((32, 32), (32, 96), (96, 64))),
        *(("vig_cifar", size) for size in ((4, 4), (8, 12), (32, 32))),
    ],
)
def test_every_allowed_image_size_runs(name: str, image_size: tuple[int, int]) -> None:
    model = build(name, image_size=image_size)
    images = torch.rand(3, 3, *image_size)
    F.cross_entropy(model(images), torch.arange(3)).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(images).isfinite().all()


@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_bfloat16_is_as_accurate_as_its_eight_bits(conv: str) -> None:
    """Of a stem and a block on the graph of fp32; weights and statistics stay fp32."""
    images = torch.rand(6, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    graphs: Graphs = {}
    results = []
    for precision, hook in (("fp32", record_graphs), ("bf16", replay_graphs)):
        config = ModelConfig(conv=conv, precision=precision, image_size=(96, 96))
        model = Model(make_layers("pvig_mini", config, seed=1)[:2])
        hook(model, graphs)
        features = model(images)
        assert features.dtype is (torch.bfloat16 if precision == "bf16" else torch.float32)
        weights = torch.sin(torch.arange(features.numel())).view(features.shape)
        (features.float() * weights).sum().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        state = model.state_dict()
        variances = [value for name, value in state.items() if "running_var" in name]
        assert {value.dtype for value in (*gradients, *variances)} == {torch.float32}
        results.append((features.float(), torch.cat(gradients), torch.cat(variances)))
    # Eight bits round by up to 0.4 %; about ten operations follow each other.
    for values, expected, tolerance in zip(*reversed(results), (0.02, 0.1, 0.01), strict=True):
        error = ((values - expected).norm() / expected.norm()).item()
        assert 1e-4 < error < tolerance


def test_a_model_in_bfloat16_has_logits_and_gradients_in_fp32() -> None:
    model = build("pvig_mini", precision="bf16", image_size=(64, 64))
    logits = model(torch.rand(4, 3, 64, 64))
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert logits.dtype is torch.float32
    assert logits.isfinite().all()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_both_libraries_of_products_give_the_same_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[torch.Size] = []
    onednn_product = pointwise.onednn_product

    def counting(x: Tensor, weight: Tensor, groups: int, out: Tensor) -> Tensor:
        calls.append(weight.shape)
        return onednn_product(x, weight, groups, out)

    monkeypatch.setattr(pointwise, "onednn_product", counting)
    images = torch.rand(4, 3, 64, 64)
    graphs: Graphs = {}
    results = []
    for matmul, hook in (("blas", record_graphs), ("onednn", replay_graphs)):
        assert not calls
        model = build("pvig_mini", matmul=matmul, image_size=(64, 64), seed=1)
        hook(model, graphs)
        logits = model(images)
        logits.square().sum().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append(torch.cat([logits.detach().flatten(), *gradients]))
    blocks = sum(layer.is_block for layer in model.layers)
    assert len(calls) == 2 * 5 * blocks  # five products in two passes
    largest = results[0].abs().max()
    assert (results[1] - results[0]).abs().max() < 1e-4 * largest


@pytest.mark.parametrize(
    ("name", "image_size", "remedy"),
    [
        ("vig_ti", (224, 220), "multiples of 16, for example 224x208 or 224x224"),
        ("pvig_ti", (20, 64), "multiples of 32, for example 32x64"),
        ("vig_cifar", (30, 30), "multiples of 4, for example 28x28 or 32x32"),
    ],
)
def test_another_image_size_is_refused(name: str, image_size: tuple[int, int], remedy: str) -> None:
    with pytest.raises(InputError, match=remedy):
        build(name, image_size=image_size)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("study", {"conv": "gin"}, "--conv gin for --model study. Omit --conv"),
        ("vig_cifar", {"conv": "edge"}, "--conv edge for --model vig_cifar"),
        (
            "vig_ti",
            {"blocks": 3},
            "--blocks 3 for --model vig_ti. Omit --blocks, or use one of these models: study",
        ),
        ("study", {"drop_path": 0.1}, "--drop-path 0.1 for --model study"),
        ("study", {"precision": "bf16"}, "--precision bf16 for --model study"),
        ("vig_ti", {"precision": "bf16", "backend": "reference"}, "for --backend reference"),
    ],
)
def test_an_option_of_another_model_is_refused(
    name: str, option: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(name, **option)  # type: ignore[arg-type]


def logits(model: Model, samples: list[int], step: int) -> Tensor:
    """Return logits of images that are all equal, in a mode that normalises by statistics."""
    images = torch.ones(len(samples), 3, 32, 32)
    return model(images, MicroBatch(np.array(samples), step))


def test_drop_path_depends_on_seed_step_sample_and_layer_only() -> None:
    def model(rate: float, seed: int = 1) -> Model:
        built = build("vig_cifar", drop_path=rate, seed=seed)
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eval()  # samples of a micro-batch shall not influence each other
        return built

    samples = list(range(16))
    dropped, kept = model(0.5), model(0.0)
    dropped.load_state_dict(kept.state_dict())
    first = logits(dropped, samples, step=3)
    assert len(first.unique(dim=0)) > 8  # equal images lose different branches
    torch.testing.assert_close(logits(dropped, samples[::-1], step=3), first.flip(0))
    assert (logits(dropped, samples, step=4) != first).any()
    other = model(0.5, seed=2)
    other.load_state_dict(kept.state_dict())
    assert (logits(other, samples, step=3) != first).any()
    assert len(logits(kept, samples, step=3).unique(dim=0)) == 1
    torch.testing.assert_close(logits(dropped.eval(), samples, 3), logits(kept.eval(), samples, 3))


def test_drop_path_grows_over_the_blocks_and_keeps_the_mean() -> None:
    samples = np.arange(20_000)
    layers = make_layers("vig_mini", ModelConfig(drop_path=0.3, image_size=(16, 16)))
    shares: list[float] = []
    for layer in layers:
        if layer.is_block:
            drop_path = layer.build()[0]._drop_path  # type: ignore[index]
            factors = [drop_path.factor(MicroBatch(samples, 7), branch) for branch in (0, 1)]
            if not shares:
                assert factors == [None, None]
                shares.append(0.0)
                continue
            assert factors[0].mean().item() == pytest.approx(1, abs=0.02)
            shares.append((factors[0] == 0).double().mean().item())
            assert (factors[0] != factors[1]).any()
    assert shares == pytest.approx([0, 0.1, 0.2, 0.3], abs=0.01)


def test_relative_positions_of_every_size_prefer_the_node_itself() -> None:
    for height, width in ((3, 5), (8, 6)):
        table = relative_positions(height, width, 16, 1)[0]
        assert table.argmin(dim=1).tolist() == list(range(height * width))
        torch.testing.assert_close(table.diagonal(), -torch.ones(height * width))


def names() -> Iterator[tuple[str, torch.Size, torch.Size]]:
    yield "pos_embed", torch.Size((1, 4, 6, 5)), torch.Size((1, 4, 12, 7))
    yield "backbone.0.0.relative_pos", torch.Size((1, 30, 30)), torch.Size((1, 84, 21))


def test_tables_of_positions_are_resized_and_other_tensors_are_not() -> None:
    for name, old, new in names():
        table = torch.rand(old)
        found = resized(name, table, new)
        assert found is not None
        assert found.shape == new
        torch.testing.assert_close(resized(name, table, old), table)
        torch.testing.assert_close(resized(name, torch.ones(old), new), torch.ones(new))
        assert resized("stem.weight", table, new) is None
        assert resized(name, table, torch.Size((2, *new[1:]))) is None
