"""The study's block in PyG's own layers: the oracle that every faster form is tested against."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GraphConv

from vigmpi.model.config import ViGConfig
from vigmpi.model.graph import PixelLattice
from vigmpi.model.normalization import LinearBeforeNorm, MicroBatchNorm


def _linear_norm(features: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(LinearBeforeNorm(features, outputs), MicroBatchNorm(outputs))


class Grapher(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = _linear_norm(channels, hidden)
        self.graph_conv = GraphConv(hidden, hidden)
        self.fc2 = _linear_norm(hidden, channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        hidden = self.graph_conv(self.fc1(x), edge_index)
        return x + self.fc2(F.gelu(hidden))


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = _linear_norm(channels, hidden)
        self.fc2 = _linear_norm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Grapher, then feed-forward network, each with a residual connection."""

    def __init__(self, config: ViGConfig) -> None:
        super().__init__()
        self.grapher = Grapher(config.channels, config.grapher_hidden)
        self.ffn = FeedForward(config.channels, config.ffn_hidden)

    def forward(self, features: Tensor, graph: PixelLattice) -> Tensor:
        """Node features [images, nodes, channels] to the same shape."""
        edge_index = graph.edge_index(len(features))
        return self.ffn(self.grapher(features.flatten(0, 1), edge_index)).view_as(features)
