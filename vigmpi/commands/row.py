"""What every rank tells of a mini-batch: one row of original_ranks, so that it is one message."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi import host
from vigmpi.pipeline.trainer import StepResult
from vigmpi.record.columns import LAYERS, TIMINGS
from vigmpi.record.spans import seconds

Floats = NDArray[np.float64]

_OTHERS = 5  # between the timings and the layers


class Requests(NamedTuple):
    """What a rank would like to happen after a mini-batch: that the run stops; a checkpoint."""

    stop: bool = False
    checkpoint: bool = False


class Rows(NamedTuple):
    """All ranks' rows, taken apart.

    Attributes:
        timings: [ranks, len(TIMINGS)].
        loss, correct: a rank's shares, [ranks].
        peak_rss_bytes: [ranks].
        stop, checkpoint: whether a rank requests for it, [ranks].
        layers: seconds of each block and of the readout, NaN where a rank does not run it,
            [ranks, len(LAYERS), layers].
    """

    timings: Floats
    loss: Floats
    correct: Floats
    peak_rss_bytes: Floats
    stop: Floats
    checkpoint: Floats
    layers: Floats


def pack(result: StepResult, layers: tuple[str, ...], requests: Requests) -> Floats:
    """Args: layers: names of all blocks and of the readout, whoever runs them."""
    spent = seconds(result.spans)
    of_parts = [result.layers.get(name, (np.nan,) * len(LAYERS)) for name in layers]
    return np.concatenate(
        [
            [spent[column.name] for column in TIMINGS],
            [result.loss, result.correct, host.peak_rss_bytes(), *requests],
            np.array(of_parts).T.ravel(),
        ]
    )


def unpack(rows: Floats) -> Rows:
    timings, others, layers = np.split(rows, [len(TIMINGS), len(TIMINGS) + _OTHERS], axis=1)
    loss, correct, peak_rss_bytes, stop, checkpoint = others.T
    of_parts = layers.reshape(len(rows), len(LAYERS), -1)
    return Rows(timings, loss, correct, peak_rss_bytes, stop, checkpoint, of_parts)
