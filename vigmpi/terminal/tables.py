"""Closing tables of a run, as text."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vigmpi.phase import Phase


def table(seconds: Mapping[Phase, Sequence[float]]) -> str:
    """The study's closing table: statistics of each phase's mini-batches.

    Args:
        seconds: of each mini-batch on its slowest rank, warm-up left out.
    """
    lines = ["phase   mini-batches    mean s     std s     min s     max s"]
    for phase, values in seconds.items():
        times = np.array(values)
        figures = (
            [times.mean(), times.std(ddof=1) if len(times) > 1 else None, times.min(), times.max()]
            if len(times)
            else [None] * 4
        )
        cells = "".join(f"{'-' if f is None else format(f, '.3f'):>10}" for f in figures)
        lines.append(f"{phase:8}{len(times):12}{cells}")
    lines.append("(without the first mini-batch of each phase, which includes warm-up)")
    return "\n".join(lines)


def ledger_table(
    phase: Phase,
    columns: Sequence[str],
    shares: NDArray[np.float64],
    step_s: float,
    closed_form_s: float,
) -> str:
    """Where a mini-batch's time went on each stage, in percent, beside the closed form."""
    percent = np.round(100 * shares / step_s, 1) + 0.0  # no -0.0
    names = [column.removesuffix("_s").replace("_", " ") for column in columns]
    widths = [max(7, len(name) + 2) for name in names]
    lines = [
        f"{phase}: % of a mini-batch's {step_s:.3f} s (closed form of the pipeline: "
        f"{closed_form_s:.3f} s)",
        "stage" + "".join(f"{name:>{w}}" for name, w in zip(names, widths, strict=True)),
    ]
    for stage, row in enumerate(percent):
        cells = "".join(f"{v:{w}.1f}" for v, w in zip(row, widths, strict=True))
        lines.append(f"{stage:5}{cells}")
    return "\n".join(lines)


def gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
