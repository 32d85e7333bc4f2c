from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.graphs.neighbours import Neighbours, nearest
from vigmpi.models.vig import reference

Search = Callable[..., Tensor]


def nearest_by_sorting(x: np.ndarray, y: np.ndarray, count: int, offsets: np.ndarray) -> np.ndarray:
    """Return the nearest candidates of the nodes of one image, lower index first among equals.

    Args:
        x, y: features of nodes and candidates, [channels, nodes], with exact unit length.
    """
    distances = ((x[:, :, None] - y[:, None]) ** 2).sum(axis=0) + offsets
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


def as_map(rows: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return rows [images, nodes, channels] as a map with one row of nodes."""
    return torch.from_numpy(rows).to(dtype).permute(0, 2, 1)[:, :, None]


@pytest.mark.parametrize("search", [nearest, reference.nearest])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (5, 1), (4, 3), (12, 1)])
def test_equally_distant_candidates_come_in_the_order_of_their_index(
    search: Search, dtype: torch.dtype, k: int, dilation: int
) -> None:
    """Unit vectors along axes have distances 0, 2 and 4, each many times."""
    random = np.random.default_rng(k)
    axes = np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3))])
    x, y = axes[random.integers(6, size=(2, 20))], axes[random.integers(6, size=(2, 12))]
    offsets = random.integers(2, size=(20, 12)).astype(float)
    table = torch.from_numpy(offsets[None]).to(dtype)
    found = search(as_map(x, dtype), as_map(y, dtype), k, dilation, table)
    for image in range(2):
        expected = nearest_by_sorting(x[image].T, y[image].T, k * dilation, offsets)
        np.testing.assert_array_equal(found[image], expected[:, ::dilation])


@pytest.mark.parametrize("search", [nearest, reference.nearest])
def test_the_neighbours_do_not_depend_on_the_length_of_the_features(search: Search) -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.rand(1, 8, 5, 6, generator=random, dtype=torch.float64)
    lengths = 1 + torch.rand(1, 1, 5, 6, generator=random, dtype=torch.float64)
    index = search(x, x, 6, 1)
    assert index[0, :, 0].tolist() == list(range(30))  # each node is its own nearest neighbour
    torch.testing.assert_close(search(x * lengths, x * lengths, 6, 1), index)


@pytest.mark.parametrize("channels", [1, 3, 48, 50])
@pytest.mark.parametrize(("num_nodes", "num_candidates"), [(1, 1), (31, 33), (70, 196)])
@pytest.mark.parametrize("dilation", [1, 3])
def test_the_kernel_finds_the_neighbours_of_the_reference(
    channels: int, num_nodes: int, num_candidates: int, dilation: int
) -> None:
    """In float64, where random distances differ by more than they are rounded."""
    seed = int(np.random.default_rng().integers(2**31))
    random = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(2, channels, 1, number, generator=random, dtype=torch.float64)
        for number in (num_nodes, num_candidates)
    )
    offsets = torch.randn(1, num_nodes, num_candidates, generator=random, dtype=torch.float64)
    k = max(1, min(9, num_candidates // dilation))
    for table in (offsets, None) if channels > 1 else (offsets,):  # unit numbers are all equal
        found = nearest(x, y, k, dilation, table)
        expected = reference.nearest(x, y, k, dilation, table)
        assert found.equal(expected), f"seed {seed}"


def test_distances_in_fp32_are_accurate_to_a_few_roundings() -> None:
    """The chosen candidates are at most a few roundings farther than the true ones."""
    seed = int(np.random.default_rng().integers(2**31))
    random = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(2, 192, 14, 14, generator=random) for _ in range(2))
    found = nearest(x, y, 18, 3)
    units = [F.normalize(each.double().flatten(2).mT, dim=2) for each in (x, y)]
    distances = 2 - 2 * units[0] @ units[1].mT
    ranked = distances.sort(dim=2).values[:, :, : 18 * 3 : 3]
    assert (distances.gather(2, found) - ranked).abs().max() < 16 * 2**-24, f"seed {seed}"


def test_features_that_are_not_finite_give_valid_candidates() -> None:
    x = torch.randn(1, 8, 4, 10)
    x[0, :, 1, 3], x[0, 2, 2, 2] = torch.nan, torch.inf
    index = nearest(x, x, 9, 1)
    assert ((index >= 0) & (index < 40)).all()
    assert all(len(set(row.tolist())) == 9 for row in index[0, :13])


def test_a_result_does_not_depend_on_the_other_images_or_the_number_of_threads() -> None:
    random = torch.Generator().manual_seed(5)
    x, y = (torch.randn(5, 24, 6, 7, generator=random) for _ in range(2))
    outputs = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 3, 7):
            torch.set_num_threads(number)
            graph = Neighbours(nearest(x, y, 9, 2), 42)
            outputs.append((graph.index, graph.max_relative(x, y), graph.sum(y, x)))
    finally:
        torch.set_num_threads(threads)
    alone = Neighbours(nearest(x[3:4], y[3:4], 9, 2), 42)
    outputs.append((alone.index, alone.max_relative(x[3:4], y[3:4]), alone.sum(y[3:4], x[3:4])))
    for index, relative, total in outputs[1:]:
        image = slice(3, 4) if len(index) == 1 else slice(None)
        assert index.equal(outputs[0][0][image])
        assert relative.equal(outputs[0][1][image])
        assert total.equal(outputs[0][2][image])


def maps(channels_last: bool) -> tuple[Tensor, Tensor, Neighbours]:
    """Return candidates [2, 3, 3, 2], nodes [2, 3, 6, 4] and random edges with repetitions."""
    random = torch.Generator().manual_seed(1)
    y = torch.rand(2, 3, 3, 2, generator=random, dtype=torch.float64)
    x = torch.rand(2, 3, 6, 4, generator=random, dtype=torch.float64)
    if channels_last:
        x, y = (each.contiguous(memory_format=torch.channels_last) for each in (x, y))
    return x, y, Neighbours(torch.randint(6, (2, 24, 4), generator=random), 6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_and_extremes_equal_those_of_gathered_features(channels_last: bool) -> None:
    x, y, graph = maps(channels_last)
    y.requires_grad_()
    gathered = graph.gather(y)
    for image in range(2):
        rows = y[image].flatten(1).detach()
        torch.testing.assert_close(gathered[image].detach(), rows[:, graph.index[image]])
    weight = torch.rand_like(x)
    pairs = graph.max_relative(x, y)
    torch.testing.assert_close(pairs[:, ::2], x)
    own = x.flatten(2)[..., None]
    for fast, plain in (
        (pairs[:, 1::2], (gathered - own).max(dim=-1).values),
        (graph.maximum(y, x), gathered.max(dim=-1).values),
        (graph.minimum(y, x), gathered.min(dim=-1).values),
        (graph.sum(y, x), gathered.sum(dim=-1)),
    ):
        expected = plain.reshape(x.shape)
        torch.testing.assert_close(fast, expected)
        pair = [
            torch.autograd.grad((output * weight).sum(), y, retain_graph=True)[0]
            for output in (fast, expected)
        ]
        torch.testing.assert_close(*pair)


def test_in_degrees_count_the_nodes_that_chose_a_candidate() -> None:
    _, y, graph = maps(channels_last=True)
    degrees = graph.in_degrees(y)
    assert degrees.shape == (2, 1, 3, 2)
    assert degrees.sum() == graph.num_edges
    for image in range(2):
        counts = np.bincount(graph.index[image].ravel(), minlength=6)
        np.testing.assert_array_equal(degrees[image].ravel(), counts)


def test_moments_over_the_edges_and_their_gradients_equal_those_of_gathered_features() -> None:
    x, y, graph = maps(channels_last=True)
    leaves = [(1e3 + each).requires_grad_() for each in (y, x)]
    differences = graph.gather(leaves[0]) - leaves[1].flatten(2)[..., None]
    axes = (0, 2, 3)
    expected = differences.mean(dim=axes), differences.var(dim=axes, correction=0)
    found = graph.edge_moments(*leaves)
    weights = torch.rand(2, x.shape[1], dtype=torch.float64)
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)
    gradients = [
        torch.autograd.grad((torch.stack(moments) * weights).sum(), leaves)
        for moments in (found, expected)
    ]
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)


def test_equal_distances_cost_no_more_than_others_and_infinite_ones_are_not_chosen() -> None:
    x = torch.ones(1, 4, 40, 100)
    offsets = torch.zeros(1, 4000, 4000)
    offsets[0, :, :7] = torch.inf
    index = nearest(x, x, 9, 2, offsets)
    assert (index == torch.arange(7, 7 + 18, 2)).all()


@pytest.mark.parametrize(("neighbour", "k"), [(42, 9), (-1, 9), (0, 257)])
def test_a_graph_that_does_not_fit_is_refused(neighbour: int, k: int) -> None:
    index = torch.zeros(1, 42, k, dtype=torch.int64)
    index[0, 3, 2] = neighbour
    with pytest.raises(ValueError, match="neighbour"):
        Neighbours(index, 42)


def test_a_graph_of_another_map_is_refused() -> None:
    x = torch.rand(1, 3, 6, 7)
    with pytest.raises(ValueError, match="graph of"):
        Neighbours(torch.zeros(1, 40, 9, dtype=torch.int64), 42).max_relative(x, x)
