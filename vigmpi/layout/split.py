"""Division of layers over stages, and even division of images over micro-batches."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

from vigmpi.errors import InputError


class SplitLayer(Protocol):
    """Properties of a layer that a split depends on."""

    @property
    def name(self) -> str: ...
    @property
    def is_block(self) -> bool: ...
    @property
    def cut(self) -> bool: ...


def even_sizes(count: int, pieces: int) -> list[int]:
    """Return the sizes of `pieces` pieces that differ by at most one, larger ones first."""
    size, larger = divmod(count, pieces)
    return [size + 1] * larger + [size] * (pieces - larger)


def split_layers(
    layers: Sequence[SplitLayer], stages: int, split: Sequence[int] | None = None
) -> list[range]:
    """Return the layers of every stage, cut directly behind the last block of each stage.

    Layers in front of the first block belong to the first stage, layers behind the last block to
    the last stage, and layers between two blocks to the stage of the second one.

    Args:
        split: number of blocks on each stage; None for an even split.

    Raises:
        InputError: if there are more stages than blocks, or if the split does not add up.
    """
    blocks = [index for index, layer in enumerate(layers) if layer.is_block]
    sizes = blocks_per_stage(len(blocks), stages, split)
    last_blocks = [blocks[sum(sizes[: stage + 1]) - 1] for stage in range(stages - 1)]
    return _cut_behind(layers, last_blocks)


def blocks_per_stage(blocks: int, stages: int, split: Sequence[int] | None) -> list[int]:
    """Return the number of blocks on each stage.

    Raises:
        InputError: if there are more stages than blocks, or if the split does not add up.
    """
    if stages > blocks:
        raise InputError(
            f"too many stages: --stages {stages} for {blocks} blocks. Use --stages {blocks} or "
            f"fewer."
        )
    sizes = list(split) if split else even_sizes(blocks, stages)
    if len(sizes) != stages or sum(sizes) != blocks or min(sizes) < 1:
        example = ",".join(map(str, even_sizes(blocks, stages)))
        raise InputError(
            f"invalid split: --split {','.join(map(str, sizes))} for {stages} stages. Use {stages} "
            f"positive numbers that sum to {blocks} blocks, for example --split {example}."
        )
    return sizes


def split_by_time(
    layers: Sequence[SplitLayer], stages: int, seconds: Sequence[float]
) -> list[range]:
    """Return the layers of every stage such that the slowest stage takes least time.

    Dynamic programming over the cuts, whose result is exact: the least time of the slowest of k
    stages that end behind a layer follows from that of k - 1 stages. Among equally good splits,
    earlier stages get fewer layers.

    Args:
        seconds: time of each layer.

    Raises:
        InputError: if there are more stages than the layers can be cut into.
    """
    check_number_of_stages(layers, stages)
    ends = [*_possible_ends(layers), len(layers)]
    until = [0.0, *accumulate(seconds)]
    # The slowest stage's time and the cuts of the best split of the first `end` layers.
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for _ in range(stages):
        best = {
            end: min(
                (max(slowest, until[end] - until[start]), [*cuts, end])
                for start, (slowest, cuts) in best.items()
                if start < end
            )
            for end in ends
            if end > min(best)
        }
    cuts = best[len(layers)][1]
    return [range(start, end) for start, end in pairwise([0, *cuts])]


def check_number_of_stages(layers: Sequence[SplitLayer], stages: int) -> None:
    """Raise InputError if there are more stages than the layers can be cut into."""
    pieces = len(_possible_ends(layers)) + 1
    if stages > pieces:
        raise InputError(
            f"too many stages: --stages {stages} for a model that can be cut into at most "
            f"{pieces}. Use --stages {pieces} or fewer."
        )


def _possible_ends(layers: Sequence[SplitLayer]) -> list[int]:
    """Return the number of layers in front of each possible cut."""
    return [index + 1 for index, layer in enumerate(layers[:-1]) if layer.cut]


def split_after(layers: Sequence[SplitLayer], stages: int, names: Sequence[str]) -> list[range]:
    """Return the layers of every stage, cut behind the layers of these names.

    Raises:
        InputError: if the names are not those of layers behind which the pipeline may be cut, in
            the order of the model, or if their number is not that of the cuts.
    """
    allowed = [layer.name for layer in layers[:-1] if layer.cut]
    given = ",".join(names)
    if unknown := [name for name in names if name not in allowed]:
        raise InputError(
            f"no cut behind this layer: {unknown[0]} in --split-after {given}. Use layers from "
            f"{', '.join(allowed)}."
        )
    if len(names) != stages - 1:
        raise InputError(
            f"wrong number of stages: --stages {stages} for --split-after {given}. Use --stages "
            f"{len(names) + 1}."
        )
    indices = [index for index, layer in enumerate(layers) if layer.name in names]
    if [layers[index].name for index in indices] != list(names):
        raise InputError(
            f"invalid split: --split-after {given}. Use different layers in the order of the model."
        )
    return _cut_behind(layers, indices)


def _cut_behind(layers: Sequence[SplitLayer], indices: Sequence[int]) -> list[range]:
    for layer in (layers[index] for index in indices):
        if not layer.cut:
            raise InputError(
                f"invalid split: the pipeline cannot be cut behind {layer.name}. Use another "
                f"--split, or --split-after."
            )
    ends = [0, *(index + 1 for index in indices), len(layers)]
    return [range(start, end) for start, end in pairwise(ends)]
