"""What every rank tells of a mini-batch: one row of numbers, so that it is one message."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi import host
from vigmpi.record.columns import PARTS, TIMINGS
from vigmpi.runtime.stopwatch import seconds
from vigmpi.runtime.trainer import StepResult

Floats = NDArray[np.float64]

_OTHERS = 5  # between the timings and the parts


class Wishes(NamedTuple):
    """What a rank would like to happen after a mini-batch: that the run stops; a checkpoint."""

    stop: bool = False
    checkpoint: bool = False


class Rows(NamedTuple):
    """All ranks' rows, taken apart.

    Attributes:
        timings: [ranks, len(TIMINGS)].
        loss, correct: a rank's shares, [ranks].
        peak_rss_bytes: [ranks].
        stop, checkpoint: whether a rank wishes for it, [ranks].
        parts: seconds of each block and of the readout, NaN where a rank does not run it,
            [ranks, len(PARTS), parts].
    """

    timings: Floats
    loss: Floats
    correct: Floats
    peak_rss_bytes: Floats
    stop: Floats
    checkpoint: Floats
    parts: Floats


def pack(result: StepResult, parts: tuple[str, ...], wishes: Wishes) -> Floats:
    """Args: parts: names of all blocks and of the readout, whoever runs them."""
    spent = seconds(result.spans)
    of_parts = [result.parts.get(name, (np.nan,) * len(PARTS)) for name in parts]
    return np.concatenate(
        [
            [spent[column.name] for column in TIMINGS],
            [result.loss, result.correct, host.peak_rss_bytes(), *wishes],
            np.array(of_parts).T.ravel(),
        ]
    )


def unpack(rows: Floats) -> Rows:
    timings, others, parts = np.split(rows, [len(TIMINGS), len(TIMINGS) + _OTHERS], axis=1)
    loss, correct, peak_rss_bytes, stop, checkpoint = others.T
    of_parts = parts.reshape(len(rows), len(PARTS), -1)
    return Rows(timings, loss, correct, peak_rss_bytes, stop, checkpoint, of_parts)
