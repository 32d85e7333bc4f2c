"""One row of numbers per rank and mini-batch, so that a single all-gather collects them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi import host
from vigmpi.pipeline.trainer import StepResult
from vigmpi.record.columns import LAYERS, TIMINGS
from vigmpi.record.spans import seconds

Floats = NDArray[np.float64]

_NUM_SCALARS = 5  # between the timings and the layers: loss ... checkpoint


class Requests(NamedTuple):
    """Requests of a rank after a mini-batch: to stop the run, to write a checkpoint."""

    stop: bool = False
    checkpoint: bool = False


class Rows(NamedTuple):
    """Unpacked rows of all ranks.

    Attributes:
        timings: seconds, [ranks, len(TIMINGS)].
        loss, correct: each rank's share of the loss and of the correct predictions, [ranks].
        peak_rss_bytes: [ranks].
        stop, checkpoint: 1 if a rank requests it, otherwise 0, [ranks].
        layers: seconds of each layer, NaN if a rank does not run it,
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
    """Return the row of this rank; `layers` names all layers of the model."""
    by_column = seconds(result.spans)
    by_layer = [result.layers.get(name, (np.nan,) * len(LAYERS)) for name in layers]
    return np.concatenate(
        [
            [by_column[column.name] for column in TIMINGS],
            [result.loss, result.correct, host.peak_rss_bytes(), *requests],
            np.array(by_layer).T.ravel(),
        ]
    )


def unpack(rows: Floats) -> Rows:
    ends = [len(TIMINGS), len(TIMINGS) + _NUM_SCALARS]
    timings, scalars, layers = np.split(rows, ends, axis=1)
    loss, correct, peak_rss_bytes, stop, checkpoint = scalars.T
    layers = layers.reshape(len(rows), len(LAYERS), -1)
    return Rows(timings, loss, correct, peak_rss_bytes, stop, checkpoint, layers)
