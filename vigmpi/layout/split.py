"""Even division of blocks over stages and of images over micro-batches."""

from vigmpi.errors import InputError


def even_sizes(count: int, pieces: int) -> list[int]:
    """Return the sizes of `pieces` pieces that differ by at most one, larger ones first."""
    size, larger = divmod(count, pieces)
    return [size + 1] * larger + [size] * (pieces - larger)


def split_blocks(blocks: int, stages: int, split: tuple[int, ...] | None) -> list[range]:
    """Return the blocks of every stage.

    Args:
        split: number of blocks on each stage; None for an even split.

    Raises:
        InputError: if there are more stages than blocks, or if the split does not add up.
    """
    if stages > blocks:
        raise InputError(
            f"too many stages: --stages {stages} for {blocks} blocks. Use --stages {blocks} or "
            f"fewer, or more --blocks."
        )
    sizes = list(split) if split else even_sizes(blocks, stages)
    if len(sizes) != stages or sum(sizes) != blocks or min(sizes) < 1:
        example = ",".join(map(str, even_sizes(blocks, stages)))
        raise InputError(
            f"invalid split: --split {','.join(map(str, sizes))} for {stages} stages. Use {stages} "
            f"positive numbers that sum to {blocks} blocks, for example --split {example}."
        )
    ends = [sum(sizes[: stage + 1]) for stage in range(stages)]
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
