"""Tables that a run prints at its end."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vigmpi.phase import Phase


def table(seconds: Mapping[Phase, Sequence[float]]) -> str:
    """Return the study's table: statistics of the mini-batch times of each phase.

    Args:
        seconds: time of each mini-batch on its slowest rank, without warm-up.
    """
    lines = ["phase   mini-batches    mean s     std s     min s     max s"]
    for phase, values in seconds.items():
        times = np.array(values)
        statistics = (
            [times.mean(), times.std(ddof=1) if len(times) > 1 else None, times.min(), times.max()]
            if len(times)
            else [None] * 4
        )
        cells = "".join(f"{'-' if f is None else format(f, '.3f'):>10}" for f in statistics)
        lines.append(f"{phase:8}{len(times):12}{cells}")
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
