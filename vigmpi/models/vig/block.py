"""Block of a ViG: a Grapher, then a feed-forward network, each with a residual connection."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.graphs.neighbours import Neighbours
from vigmpi.hashing import random_words
from vigmpi.models.layer import MicroBatch
from vigmpi.models.vig.backend import MakePointwise
from vigmpi.models.vig.variant import NeighbourSearch

FindNeighbours = Callable[[Tensor, Tensor, MicroBatch], Tensor]


class DropPath:
    """Random omission of a branch, independently for every sample (stochastic depth).

    A kept branch is divided by the probability of keeping it.

    Args:
        rate: probability of the omission.
        key: seed and block; the choice depends on these, the step, the sample and the branch only.

    Source: Huang et al., Deep Networks with Stochastic Depth, ECCV 2016.
    """

    def __init__(self, rate: float, *key: int) -> None:
        self._rate = rate
        self._key = key

    def factor(self, micro_batch: MicroBatch, branch: int) -> Tensor | None:
        """Return the factor of every sample's branch, [images]; None stands for 1."""
        if self._rate == 0:
            return None
        words = random_words(micro_batch.samples, *self._key, micro_batch.step, branch)
        kept = words * 2.0**-64 >= self._rate
        return torch.from_numpy(kept / (1 - self._rate))


class Grapher(nn.Module):
    """Graph convolution over the nearest neighbours.

    Attributes:
        search: parameters of the search.
        find_neighbours: what is called instead of `find_nearest`, or None; see `replay`.

    Args:
        channels: number of channels.
        num_nodes: number of nodes of an image.
        pointwise: function that returns pointwise layers.
        convolution: the graph convolution, from `channels` to twice as many.
        nearest: function that searches for neighbours.
        search: parameters of the search, limited to the candidates that exist.
        positions: offsets of squared distances, [1, nodes, candidates], or None.
    """

    def __init__(
        self,
        channels: int,
        num_nodes: int,
        pointwise: MakePointwise,
        convolution: nn.Module,
        nearest: Callable[..., Tensor],
        search: NeighbourSearch,
        positions: Tensor | None,
        drop_path: DropPath,
    ) -> None:
        super().__init__()
        self.relative_pos: nn.Parameter | None
        # A parameter, as in the published code, although it is not trained.
        table = None if positions is None else nn.Parameter(positions.clone(), requires_grad=False)
        self.register_parameter("relative_pos", table)
        self.fc1 = pointwise(channels, channels, num_nodes)
        self.graph_conv = nn.ModuleDict({"gconv": convolution})
        self.fc2 = pointwise(2 * channels, channels, num_nodes)
        self.find_neighbours: FindNeighbours | None = None
        self.search = search
        self._nearest = nearest
        self._drop_path = drop_path

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:
        """Map features [images, channels, height, width] to features of the same shape."""
        x = self.fc1(features)
        window = self.search.reduction
        y = F.avg_pool2d(x, window) if window > 1 else x
        index = (self.find_neighbours or self.find_nearest)(x, y, micro_batch)
        graph = Neighbours(index, num_candidates=y[0, 0].numel())
        factor = self._drop_path.factor(micro_batch, 0) if self.training else None
        return self.fc2(self.graph_conv["gconv"](x, y, graph), features, factor)

    def find_nearest(self, x: Tensor, y: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Return the neighbours of every node, [images, nodes, k], by the search.

        Args:
            x, y: features of nodes and candidates, [images, channels, height, width].
        """
        k, dilation, _ = self.search
        return self._nearest(x, y, k, dilation, self.relative_pos)


class FeedForward(nn.Module):
    """Two pointwise layers with four times as many hidden channels."""

    def __init__(
        self,
        channels: int,
        num_nodes: int,
        pointwise: MakePointwise,
        activation: str,
        drop_path: DropPath,
    ) -> None:
        super().__init__()
        self.fc1 = pointwise(channels, 4 * channels, num_nodes, activation=activation)
        self.fc2 = pointwise(4 * channels, channels, num_nodes)
        self._drop_path = drop_path

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:
        """Map features [images, channels, height, width] to features of the same shape."""
        factor = self._drop_path.factor(micro_batch, 1) if self.training else None
        return self.fc2(self.fc1(features), features, factor)


class Block(nn.Sequential):
    def __init__(self, grapher: Grapher, ffn: FeedForward) -> None:
        super().__init__(grapher, ffn)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # type: ignore[override]
        grapher, ffn = self
        return ffn(grapher(features, micro_batch), micro_batch)
