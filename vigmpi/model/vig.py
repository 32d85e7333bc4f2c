from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import global_add_pool

from vigmpi.model.config import ViGConfig
from vigmpi.model.graph import PixelLattice
from vigmpi.model.reference import Block


@dataclass(frozen=True)
class Part:
    """A block or the readout: what a stage runs, and the parameters whose gradients it fills."""

    name: str
    forward: Callable[[Tensor, PixelLattice], Tensor]
    parameters: tuple[nn.Parameter, ...]


class ViG(nn.Module):
    """The study's Vision GNN, or those of its blocks that one pipeline stage runs.

    Args:
        config: the whole model's.
        blocks: which of its blocks to build; all by default.
        readout: whether to build the readout, which turns node features into logits.
        seed: of the initial weights. Each block draws from a stream of its own, so they do not
            depend on which other blocks are built.

    Parameter names are those of the study's published code.
    """

    def __init__(
        self,
        config: ViGConfig = ViGConfig(),  # noqa: B008 (frozen)
        blocks: Iterable[int] | None = None,
        *,
        readout: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.graph = PixelLattice(*config.image_size)
        self.blocks = nn.ModuleDict()
        for i in range(config.blocks) if blocks is None else blocks:
            with _random_stream(seed, i):
                self.blocks[str(i)] = Block(config)
        self.fc1 = self.fc2 = None
        if readout:
            with _random_stream(seed, -1):
                self.fc1 = nn.Linear(config.channels, config.readout_hidden)
                self.fc2 = nn.Linear(config.readout_hidden, config.classes)

    def parts(self) -> list[Part]:
        """What this model runs, in order."""
        parts = [
            Part(f"block {i}", block, tuple(block.parameters())) for i, block in self.blocks.items()
        ]
        if self.fc1 and self.fc2:
            weights = (*self.fc1.parameters(), *self.fc2.parameters())
            parts.append(Part("readout", self.readout, weights))
        return parts

    def readout(self, features: Tensor, graph: PixelLattice) -> Tensor:  # noqa: ARG002
        """Node features [images, nodes, channels] to logits [images, classes]."""
        assert self.fc1 is not None
        assert self.fc2 is not None
        return self.fc2(F.gelu(self.fc1(global_add_pool(features, None))))

    def forward(self, images: Tensor) -> Tensor:
        """Images [images, channels, height, width] to logits [images, classes]."""
        features = nodes_of(images)
        for part in self.parts():
            features = part.forward(features, self.graph)
        return features


def nodes_of(images: Tensor) -> Tensor:
    """Images [images, channels, height, width] as node features [images, nodes, channels]."""
    return images.flatten(2).transpose(1, 2).contiguous()


@contextmanager
def _random_stream(seed: int, index: int) -> Iterator[None]:
    """Draw from a stream of random numbers that belongs to one block (-1: the readout)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([seed, index + 1]).generate_state(1)[0]))
        yield
