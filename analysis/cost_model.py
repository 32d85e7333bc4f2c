"""Predicted time of a pipeline's mini-batch, if all blocks take the same time.

GPipe's closed form (Huang et al., "GPipe", NeurIPS 2019), in units of one block's time for a
mini-batch: the total number of blocks plus (M - 1) times the largest number of blocks on a stage,
divided by the number M of micro-batches.
"""

from collections.abc import Sequence


def time_in_blocks(split: Sequence[int], chunks: int) -> float:
    """Return the time of a mini-batch in units of one block's time.

    Args:
        split: number of blocks on each stage.
        chunks: number of micro-batches.
    """
    return (sum(split) + (chunks - 1) * max(split)) / chunks


def predict_seconds(
    seconds: float, split: Sequence[int], other: Sequence[int], chunks: int
) -> float:
    """Return the seconds of a mini-batch with split `other`, given those with `split`."""
    return seconds * time_in_blocks(other, chunks) / time_in_blocks(split, chunks)
