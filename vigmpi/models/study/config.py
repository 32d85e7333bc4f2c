from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class ViGConfig:
    """Dimensions of a Vision GNN; the defaults give the study's 1,120,410 parameters."""

    blocks: int = 8
    channels: int = 3
    grapher_hidden: int = 256
    ffn_hidden: int = 512
    head_hidden: int = 1024
    num_classes: int = 10
    readout: str = "sum"  # pooling of the nodes in the head: "sum" or "mean"
    image_size: tuple[int, int] = (32, 32)  # height, width

    @property
    def num_nodes(self) -> int:
        height, width = self.image_size
        return height * width

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the blocks and the head, in order."""
        return (*(f"block {i}" for i in range(self.blocks)), "head")

    @property
    def boundary_shape(self) -> tuple[int, int]:
        """Shape of one image's features between two layers: channels, nodes."""
        return self.channels, self.num_nodes

    @property
    def image_bytes(self) -> int:
        """Bytes of one image, as the first block reads it."""
        return 4 * prod(self.boundary_shape)
