from dataclasses import dataclass


@dataclass(frozen=True)
class ViGConfig:
    """Dimensions of the study's model; the defaults give its 1,120,410 parameters."""

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
