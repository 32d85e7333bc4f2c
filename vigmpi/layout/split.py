"""How much of a thing each of several takers gets: blocks to stages, images to micro-batches."""

from vigmpi.errors import InputError


def even_sizes(count: int, pieces: int) -> list[int]:
    """`count` things in pieces that differ by at most one, larger ones first."""
    size, larger = divmod(count, pieces)
    return [size + 1] * larger + [size] * (pieces - larger)


def split_blocks(blocks: int, stages: int, given: tuple[int, ...] | None) -> list[range]:
    """The blocks of every stage, in order.

    Args:
        given: blocks per stage (`--split`), or None for an even split.

    Raises:
        InputError: more stages than blocks, or a split that does not add up.
    """
    if stages > blocks:
        raise InputError(
            f"--stages {stages} is more than the model's {blocks} blocks, and a stage needs one; "
            f"type: --stages {blocks} or fewer, or more --blocks"
        )
    sizes = list(given) if given else even_sizes(blocks, stages)
    if len(sizes) != stages or sum(sizes) != blocks or min(sizes) < 1:
        fitting = ",".join(map(str, even_sizes(blocks, stages)))
        raise InputError(
            f"--split {','.join(map(str, sizes))} must be {stages} numbers, each at least 1, "
            f"that sum to {blocks} blocks; type: --split {fitting}, for example"
        )
    ends = [sum(sizes[: stage + 1]) for stage in range(stages)]
    return [range(end - size, end) for end, size in zip(ends, sizes, strict=True)]
