from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.models.study import collapsed
from vigmpi.models.study.config import ViGConfig


@dataclass(frozen=True)
class Layer:
    """Layer that a stage runs, a block or the head, and its parameters."""

    name: str
    forward: Callable[[Tensor, PixelLattice], Tensor]
    parameters: tuple[nn.Parameter, ...]


class ViG(nn.Module):
    """Vision GNN of the study, or the layers of it that one pipeline stage runs.

    Parameter names are those of the study's published code.

    Args:
        config: dimensions of the complete model.
        backend: "fast" (compiled kernels) or "reference" (PyG's layers).
        blocks: indices of the blocks to build; all by default.
        head: if true, build the head, which maps node features to logits.
        seed: seed of the initial weights. Each block has a random stream of its own, so that its
            weights do not depend on which other blocks are built.
    """

    def __init__(
        self,
        config: ViGConfig = ViGConfig(),
        blocks: Iterable[int] | None = None,
        *,
        backend: str = "fast",
        head: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.graph = PixelLattice(*config.image_size)
        implementation = _implementation(backend)
        self._node_sum: Callable[[Tensor], Tensor] = implementation.node_sum
        self.blocks = nn.ModuleDict()
        for i in range(config.blocks) if blocks is None else blocks:
            self.blocks[str(i)] = implementation.Block(config)
            _initialise(self.blocks[str(i)], seed, i)
        self.fc1 = self.fc2 = None
        if head:
            self.fc1 = nn.Linear(config.channels, config.head_hidden)
            self.fc2 = nn.Linear(config.head_hidden, config.num_classes)
            _initialise(nn.ModuleDict({"fc1": self.fc1, "fc2": self.fc2}), seed, -1)

    def layers(self) -> list[Layer]:
        """Return the layers of this model, in order."""
        layers = [
            Layer(f"block {i}", block, tuple(block.parameters()))
            for i, block in self.blocks.items()
        ]
        if self.fc1 and self.fc2:
            weights = (*self.fc1.parameters(), *self.fc2.parameters())
            layers.append(Layer("head", self.run_head, weights))
        return layers

    def run_head(self, features: Tensor, graph: PixelLattice) -> Tensor:  # noqa: ARG002
        """Map node features [images, channels, nodes] to logits [images, classes]."""
        assert self.fc1 is not None
        assert self.fc2 is not None
        sums = self._node_sum(features)
        pooled = sums / self.graph.num_nodes if self.config.readout == "mean" else sums
        return self.fc2(F.gelu(self.fc1(pooled)))

    def forward(self, images: Tensor) -> Tensor:
        """Map images [images, channels, height, width] to logits [images, classes]."""
        features = images.flatten(2)
        for layer in self.layers():
            features = layer.forward(features, self.graph)
        return features


def _implementation(backend: str) -> ModuleType:
    if backend == "reference":
        from vigmpi.models.study import reference  # noqa: PLC0415 (PyG takes seconds to import)

        return reference
    if backend != "fast":
        raise ValueError(f"backend must be 'fast' or 'reference', not {backend!r}")
    return collapsed


def _initialise(module: nn.Module, seed: int, index: int) -> None:
    """Draw the initial weights of block `index` (-1: the head) from a random stream of its own.

    Linear maps have the distribution of torch's Linear. Parameters are drawn in the order of
    their names, because the backends' classes differ and must start from the same weights.
    """
    stream = np.random.SeedSequence([seed, index + 1])
    generator = torch.Generator().manual_seed(int(stream.generate_state(1)[0]))
    parameters = dict(module.named_parameters())
    for name in sorted(parameters):
        weight = parameters[name.rpartition(".")[0] + ".weight"]
        if weight.dim() == 2:  # the weight of a norm is a vector and stays 1
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(parameters[name], -bound, bound, generator)
