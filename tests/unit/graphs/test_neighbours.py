import numpy as np
import pytest
import torch
from torch import Tensor

from vigmpi.graphs.neighbours import Neighbours, nearest


def nearest_by_sorting(x: np.ndarray, y: np.ndarray, count: int, offsets: np.ndarray) -> np.ndarray:
    """Return the nearest candidates of the nodes of one image, lower index first among equals.

    Args:
        x, y: features of nodes and candidates, [channels, nodes], with exact unit length.
    """
    distances = ((x[:, :, None] - y[:, None]) ** 2).sum(axis=0) + offsets
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (5, 1), (4, 3), (12, 1)])
def test_equally_distant_candidates_come_in_the_order_of_their_index(
    dtype: torch.dtype, k: int, dilation: int
) -> None:
    """Unit vectors along axes have distances 0, 2 and 4, each many times."""
    random = np.random.default_rng(k)
    axes = np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3))])
    x, y = axes[random.integers(6, size=(2, 20))], axes[random.integers(6, size=(2, 12))]
    offsets = random.integers(2, size=(20, 12)).astype(float)
    nodes, candidates = (torch.from_numpy(each.transpose(0, 2, 1)).to(dtype) for each in (x, y))
    table = torch.from_numpy(offsets[None]).to(dtype)
    found = nearest(nodes, candidates, k, dilation, table)
    for image in range(2):
        expected = nearest_by_sorting(x[image].T, y[image].T, k * dilation, offsets)
        np.testing.assert_array_equal(found[image], expected[:, ::dilation])


def test_the_neighbours_do_not_depend_on_the_length_of_the_features() -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.rand(1, 8, 30, generator=random, dtype=torch.float64)
    lengths = 1 + torch.rand(1, 1, 30, generator=random, dtype=torch.float64)
    index = nearest(x, x, 6, 1)
    assert index[0, :, 0].tolist() == list(range(30))  # each node is its own nearest neighbour
    torch.testing.assert_close(nearest(x * lengths, x * lengths, 6, 1), index)


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
    for fast, plain in (
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
