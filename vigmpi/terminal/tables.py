"""Tables that a run prints at its end."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vigmpi.phase import Phase


class Statistics:
    """Statistics of many numbers, which are not kept (Welford, Technometrics 4, 1962).

    Attributes:
        number: number of values added; the others are None if they are undefined for it.
        mean, minimum, maximum: of the values.
    """

    def __init__(self) -> None:
        self.number = 0
        self.mean: float | None = None
        self.minimum: float | None = None
        self.maximum: float | None = None
        self._squares = 0.0  # sum of the squared deviations from the mean

    def add(self, value: float) -> None:
        self.number += 1
        before = value if self.mean is None else self.mean
        self.mean = before + (value - before) / self.number
        self._squares += (value - before) * (value - self.mean)
        self.minimum = value if self.minimum is None else min(self.minimum, value)
        self.maximum = value if self.maximum is None else max(self.maximum, value)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the distribution of which the values are a sample."""
        return math.sqrt(self._squares / (self.number - 1)) if self.number > 1 else None


def table(seconds: Mapping[Phase, Statistics]) -> str:
    """Return the study's table: statistics of the mini-batch times of each phase.

    Args:
        seconds: times of the mini-batches on their slowest ranks, without warm-up.
    """
    lines = ["phase   mini-batches    mean s     std s     min s     max s"]
    for phase, each in seconds.items():
        values = each.mean, each.deviation, each.minimum, each.maximum
        cells = "".join(f"{'-' if v is None else format(v, '.3f'):>10}" for v in values)
        lines.append(f"{phase:8}{each.number:12}{cells}")
    lines.append("(without the first mini-batch of each phase, which includes warm-up)")
    return "\n".join(lines)


def ledger_table(
    phase: Phase,
    columns: Sequence[str],
    shares: NDArray[np.float64],
    step_s: float,
    least_s: float,
) -> str:
    """Return the ledger of a phase as percentages of a mini-batch's time, one row per stage.

    Args:
        columns: names of the ledger's columns.
        shares: seconds, [stages, columns].
    """
    percent = np.round(100 * shares / step_s, 1) + 0.0  # no -0.0
    names = [column.removesuffix("_s").replace("_", " ") for column in columns]
    widths = [max(7, len(name) + 2) for name in names]
    lines = [
        f"{phase}: % of a mini-batch's {step_s:.3f} s (least time of the schedule: "
        f"{least_s:.3f} s)",
        "stage" + "".join(f"{name:>{w}}" for name, w in zip(names, widths, strict=True)),
    ]
    for stage, row in enumerate(percent):
        cells = "".join(f"{v:{w}.1f}" for v, w in zip(row, widths, strict=True))
        lines.append(f"{stage:5}{cells}")
    return "\n".join(lines)


def gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
