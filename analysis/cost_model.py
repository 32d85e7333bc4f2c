"""What a pipeline's mini-batch takes, if every block takes the same.

GPipe's closed form (Huang et al., "GPipe", NeurIPS 2019), in units of one block's time for a
mini-batch: the sum of the stages' blocks plus (M - 1) times the most that a stage has, over M.
"""

from collections.abc import Sequence


def block_times(split: Sequence[int], chunks: int) -> float:
    """How many times one block's seconds a mini-batch takes."""
    return (sum(split) + (chunks - 1) * max(split)) / chunks


def predicted(seconds: float, split: Sequence[int], other: Sequence[int], chunks: int) -> float:
    """Seconds of the split `other`, from those of `split`, at the same number of chunks."""
    return seconds * block_times(other, chunks) / block_times(split, chunks)
