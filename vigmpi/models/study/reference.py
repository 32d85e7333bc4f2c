"""Reference backend: the block in PyG's own layers, the oracle for tests of the fast backend."""

from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import GraphConv, global_add_pool

from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.models.layer import MicroBatch
from vigmpi.models.study import block
from vigmpi.models.study.config import ViGConfig


class Block(block.Block):
    def __init__(self, config: ViGConfig, graph: PixelLattice, *, recompute: bool = False) -> None:
        super().__init__(config, graph, recompute=recompute)
        self.grapher.graph_conv = GraphConv(config.grapher_hidden, config.grapher_hidden)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        planes = features.flatten(2)
        num_images, channels, num_nodes = planes.shape
        x = planes.transpose(1, 2).reshape(-1, channels)
        grapher, ffn = self.grapher, self.ffn
        hidden = grapher.graph_conv(grapher.fc1(x), self.graph.edge_index(num_images))
        x = x + grapher.fc2(F.gelu(hidden))
        x = x + ffn.fc2(F.gelu(ffn.fc1(x)))
        return x.view(num_images, num_nodes, channels).transpose(1, 2).contiguous()


def node_sum(features: Tensor) -> Tensor:
    """Sum [images, channels, nodes] to [images, channels]."""
    return global_add_pool(features.transpose(1, 2), None)
