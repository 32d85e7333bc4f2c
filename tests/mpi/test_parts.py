"""Images cut into parts against whole images, with new random inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import OnRanks
from tests.mpi.small import Noise, global_loss, make_training, on_first_ranks
from vigmpi.comm.collectives import allgather_rows
from vigmpi.kernels.autograd import node_sum
from vigmpi.layout.layout import Layout
from vigmpi.parallel_graphs.lattice_strip import LatticeStrip
from vigmpi.phase import Phase
from vigmpi.position import Position

Shape = tuple[int, int, int, int, int]  # stages, replicas, chunks, parts, batch size

WHOLE: Shape = (1, 1, 4, 1, 10)
# An image of 17 x 9 pixels is a single band.
UNEVEN: list[Shape] = [(1, 1, 4, 2, 10), (2, 1, 4, 3, 10), (1, 1, 4, 8, 10), (2, 2, 2, 2, 5)]
WIDE: list[Shape] = [(2, 2, 2, 3, 5), (1, 1, 4, 12, 10)]
LARGE: list[Shape] = [(1, 1, 2, 1, 4), (1, 1, 2, 3, 4), (2, 1, 2, 4, 4), (1, 1, 2, 8, 4)]
BANDS: list[Shape] = [(1, 1, 4, 2, 10), (1, 1, 4, 3, 10), (2, 1, 4, 4, 10)]


def noise(height: int, width: int, seed: int) -> Noise:
    dataset = Noise(Path(), seed)
    dataset.image_size = height, width
    return dataset


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def train(
    folder: str,
    shapes: list[Shape],
    size: tuple[int, int],
    seed: int,
    precision: str,
    readout: str = "sum",
    num_images: int = 32,
) -> None:
    """Train in each layout; the first rank of each stage saves what the others must have, too."""
    for stages, replicas, chunks, parts, batch_size in shapes:
        layout = Layout(stages, replicas, chunks, parts)
        with default_dtype(getattr(torch, precision)):
            if topology := on_first_ranks(layout):
                dataset = noise(*size, seed)
                dataset.num_images = {**dataset.num_images, Phase.TRAIN: num_images}
                recompute = parts == 3  # changes no bit, either
                training = make_training(
                    topology,
                    layout,
                    batch_size,
                    dataset=dataset,
                    readout=readout,
                    seed=seed,
                    recompute=recompute,
                )
                losses = []
                for phase in Phase:
                    for step in training.run(Position(phase=phase)):
                        losses.append(global_loss(topology, step))
                        if len(losses) == 1:
                            gradients = {
                                f"gradient of {name}": parameter.grad.numpy().copy()
                                for name, parameter in training.model.named_parameters()
                                if parameter.grad is not None
                            }
                assert not training.trainer.replica_difference()
                state = {k: v.numpy() for k, v in training.model.state_dict().items()}
                results = {**gradients, **state, "losses": np.array(losses)}
                if topology.place.replica == topology.place.part == 0:
                    stage = topology.place.stage
                    path = f"{folder}/{stages}-{replicas}-{parts}-{stage}"
                    np.savez(path, **results, allow_pickle=False)


def results(folder: Path, shape: Shape) -> dict[str, np.ndarray]:
    stages, replicas, _, parts, _ = shape
    found: dict[str, np.ndarray] = {}
    for stage in range(stages):
        found |= dict(np.load(folder / f"{stages}-{replicas}-{parts}-{stage}.npz"))
    return found


@pytest.mark.parametrize(
    ("ranks", "size", "shapes", "options"),
    [
        (8, (17, 9), [WHOLE, *UNEVEN], {}),
        pytest.param(12, (17, 9), [WHOLE, *WIDE], {}, marks=pytest.mark.slow),
        # The loss would be large with the readout sum, and its rounding would exceed the tolerance.
        pytest.param(
            8, (256, 256), LARGE, {"readout": "mean", "num_images": 4}, marks=pytest.mark.slow
        ),
    ],
)
def test_in_float64_losses_gradients_and_weights_are_those_of_whole_images(
    on_ranks: OnRanks,
    tmp_path: Path,
    ranks: int,
    size: tuple[int, int],
    shapes: list[Shape],
    options: dict[str, Any],
) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    arguments = {"folder": str(tmp_path), "size": size, "seed": seed, "precision": "float64"}
    on_ranks(ranks, train, timeout=120, shapes=shapes, **arguments, **options)
    whole, *cut = shapes
    exact = results(tmp_path, whole)
    scale = max(abs(v).max() for name, v in exact.items() if name.startswith("gradient"))
    for shape in cut:
        actual = results(tmp_path, shape)
        assert actual.keys() == exact.keys()
        for name, values in exact.items():
            tolerance = 1e-10 * (scale if name.startswith("gradient") else 1.0)
            error = abs(actual[name] - values).max()
            assert error <= tolerance, (seed, shape, name, error)


@pytest.mark.parametrize(
    ("size", "shapes"),
    [((32, 32), BANDS), pytest.param((64, 64), [(1, 1, 4, 8, 10)], marks=pytest.mark.slow)],
)
def test_results_are_bitwise_identical_for_strips_of_whole_bands(
    on_ranks: OnRanks, tmp_path: Path, size: tuple[int, int], shapes: list[Shape]
) -> None:
    arguments = {"folder": str(tmp_path), "size": size, "seed": 1, "precision": "float32"}
    on_ranks(8, train, timeout=120, shapes=[WHOLE, *shapes], **arguments)
    whole = results(tmp_path, WHOLE)
    for shape in shapes:
        actual = results(tmp_path, shape)
        assert actual.keys() == whole.keys()
        for name, values in whole.items():
            np.testing.assert_array_equal(actual[name], values, err_msg=f"{shape} {name}")


def test_in_float32_strips_of_divided_bands_agree_up_to_rounding(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    arguments = {"folder": str(tmp_path), "size": (17, 9), "seed": 2, "precision": "float32"}
    on_ranks(8, train, timeout=120, shapes=[WHOLE, UNEVEN[0]], **arguments)
    whole, divided = results(tmp_path, WHOLE), results(tmp_path, UNEVEN[0])
    assert any((divided[name] != values).any() for name, values in whole.items())
    scale = max(abs(v).max() for name, v in whole.items() if name.startswith("gradient"))
    for name, values in whole.items():
        error = abs(divided[name] - values).max()
        assert error < (2e-5 * scale if name.startswith("gradient") else 2e-4), (name, error)


def check_adjoints(parts: int, size: tuple[int, int], seed: int) -> None:
    """Compare <A x, y> with <x, A^T y> over all ranks, for linear maps A of the parts."""
    topology = on_first_ranks(Layout(1, 1, 1, parts))
    if not topology:
        return
    graph = LatticeStrip(*size, topology.parts)
    random = np.random.default_rng([seed, topology.parts.rank])
    num_nodes = graph.num_rows * graph.width
    x, *y = (torch.from_numpy(random.normal(size=(2, 3, num_nodes))) for _ in range(3))

    def total(left: torch.Tensor, right: torch.Tensor) -> float:
        own = np.array([float((left * right).sum())])
        return float(allgather_rows(topology.parts, own).sum())

    zero = x.new_zeros(3)
    sums = graph.neighbour_sum(x, zero, graph.start_halo(x), graph.bands)[:, :6]
    adjoint = y[1].clone()
    graph.add_neighbour_sum_adjoint(y[0], graph.start_halo(y[0]), adjoint)
    assert total(sums, torch.cat(y, dim=1)) == pytest.approx(total(x, adjoint), rel=1e-12)

    x.requires_grad_()
    pooled = node_sum(x, graph)
    weights = torch.from_numpy(np.random.default_rng(seed).normal(size=pooled.shape))
    pooled.backward(weights)
    assert x.grad is not None
    once = float((pooled * weights).sum())  # the same on all ranks
    assert once == pytest.approx(total(x.detach(), x.grad), rel=1e-12)


@pytest.mark.parametrize(("parts", "size"), [(1, (7, 5)), (3, (7, 5)), (8, (8, 1))])
def test_the_linear_operators_over_parts_pass_the_adjoint_test(
    on_ranks: OnRanks, parts: int, size: tuple[int, int]
) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    on_ranks(8, check_adjoints, parts=parts, size=size, seed=seed)
