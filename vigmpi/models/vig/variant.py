from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import NamedTuple


class NeighbourSearch(NamedTuple):
    """Search for the neighbours in one block.

    Attributes:
        k: number of neighbours.
        dilation: the neighbours are those of rank 0, dilation, 2 * dilation, ... by distance.
        reduction: side of the window over which the candidates are averaged.
    """

    k: int
    dilation: int
    reduction: int

    def among(self, num_candidates: int) -> "NeighbourSearch":
        """Return the search limited to the candidates that exist."""
        k = min(self.k, num_candidates)
        return self._replace(k=k, dilation=max(1, min(self.dilation, num_candidates // k)))


@dataclass(frozen=True)
class Variant:
    """Dimensions of a ViG.

    A level is a sequence of layers with equally large feature maps. Between two levels, a strided
    convolution halves the height and the width.

    Attributes:
        stem: output channels and stride of each 3x3 convolution of the stem.
        channels: channels of each level.
        blocks: number of blocks of each level.
        reductions: reduction of the search in each level.
        k: number of neighbours in the first and in the last block; linear in between.
        max_dilation: upper bound of the dilation, which grows by 1 every four blocks.
        relative_positions: true if the search prefers nodes nearby.
        groups: number of groups of the graph convolutions.
        hidden: hidden channels of the head; None for a linear head.
        bias: true if convolutions in front of a norm have a bias.
        relu: true for ReLU in place of GELU.
        residuals: number of residual pairs of 3x3 convolutions in front of each level's blocks;
            empty for none.
    """

    stem: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    reductions: tuple[int, ...]
    k: tuple[int, int]
    max_dilation: int
    relative_positions: bool = False
    groups: int = 4
    hidden: int | None = 1024
    bias: bool = True
    relu: bool = False
    residuals: tuple[int, ...] = ()

    @property
    def patch(self) -> int:
        """Side in pixels of a node of the first level."""
        return prod(stride for _, stride in self.stem)

    @property
    def num_blocks(self) -> int:
        return sum(self.blocks)

    def level(self, block: int) -> int:
        """Return the level of a block."""
        return next(i for i, end in enumerate(accumulate(self.blocks)) if block < end)

    def search(self, block: int) -> NeighbourSearch:
        """Return the search of a block, before its limitation to existing candidates."""
        first, last = self.k
        k = first + (last - first) * block // max(self.num_blocks - 1, 1)
        dilation = min(block // 4 + 1, self.max_dilation)
        return NeighbourSearch(k, dilation, self.reductions[self.level(block)])


def isotropic(channels: int, blocks: int, max_dilation: int = 10, *, relu: bool = False) -> Variant:
    """Return the dimensions of an isotropic ViG with nodes of 16x16 pixels."""
    c = channels
    stem = (c // 8, 2), (c // 4, 2), (c // 2, 2), (c, 2), (c, 1)
    return Variant(stem, (c,), (blocks,), (1,), (9, 18), max_dilation, relu=relu)


def pyramid(channels: tuple[int, ...], blocks: tuple[int, ...]) -> Variant:
    """Return the dimensions of a Pyramid ViG of four levels with nodes of 4x4 to 32x32 pixels."""
    c = channels[0]
    stem = (c // 2, 2), (c, 2), (c, 1)
    return Variant(stem, channels, blocks, (4, 2, 1, 1), (9, 9), 5, relative_positions=True)
