from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """Plain configuration of a model, from which an entry of `MODELS` makes its layers.

    Attributes:
        num_classes: number of logits.
        image_size: height and width, in pixels.
        blocks: number of blocks.
        readout: pooling of the nodes in the head: "sum" or "mean".
    """

    num_classes: int = 10
    image_size: tuple[int, int] = (32, 32)
    blocks: int = 8
    readout: str = "sum"
