"""Parameters of a block under the study's names, independent of the backend."""

from torch import Tensor, nn

from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.models.layer import MicroBatch
from vigmpi.models.normalization import LinearBeforeNorm, MicroBatchNorm
from vigmpi.models.study.config import ViGConfig


class LinearNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, num_nodes: int) -> None:
        super().__init__(LinearBeforeNorm(inputs, outputs), MicroBatchNorm(outputs, num_nodes))

    @property
    def linear(self) -> LinearBeforeNorm:
        linear = self[0]
        assert isinstance(linear, LinearBeforeNorm)
        return linear

    @property
    def norm(self) -> MicroBatchNorm:
        norm = self[1]
        assert isinstance(norm, MicroBatchNorm)
        return norm


class GraphConvWeights(nn.Module):
    """Parameters of PyG's GraphConv: W_rel * sum over neighbours + b_rel + W_root * self."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin_rel = nn.Linear(inputs, outputs)
        self.lin_root = nn.Linear(inputs, outputs, bias=False)


class Grapher(nn.Module):
    def __init__(self, channels: int, hidden: int, num_nodes: int) -> None:
        super().__init__()
        self.fc1 = LinearNorm(channels, hidden, num_nodes)
        self.graph_conv: nn.Module = GraphConvWeights(hidden, hidden)
        self.fc2 = LinearNorm(hidden, channels, num_nodes)


class FeedForward(nn.Module):
    def __init__(self, channels: int, hidden: int, num_nodes: int) -> None:
        super().__init__()
        self.fc1 = LinearNorm(channels, hidden, num_nodes)
        self.fc2 = LinearNorm(hidden, channels, num_nodes)


class Block(nn.Module):
    """Grapher, then feed-forward network, each with a residual connection.

    Args:
        recompute: whether to save nothing but the input for the backward pass (fast backend).
    """

    def __init__(self, config: ViGConfig, graph: PixelLattice, *, recompute: bool = False) -> None:
        super().__init__()
        self.graph, self.recompute = graph, recompute
        self.grapher = Grapher(config.channels, config.grapher_hidden, config.num_nodes)
        self.ffn = FeedForward(config.channels, config.ffn_hidden, config.num_nodes)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:
        """Map node features [images, channels, nodes], or pixels, to node features."""
        raise NotImplementedError
