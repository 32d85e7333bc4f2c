"""Latency against rate of the open loops of load tests: a figure.

Each file is one of `vigmpi load-test`; points are drawn in the order of their rates.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from analysis.script import exit_on_input_error
from vigmpi.errors import InputError, error_reason


class Curve(NamedTuple):
    """Open loops of one program.

    Attributes:
        name: name of the file, without its suffix.
        rate: requests per second, [points].
        p50, p99: latencies in seconds, [points].
        capacity: largest number of images per second of its closed loops.
    """

    name: str
    rate: np.ndarray
    p50: np.ndarray
    p99: np.ndarray
    capacity: float


def read_curve(path: Path) -> Curve:
    """Return the curve of a file.

    Raises:
        InputError: if the file cannot be read, or is not one of a load test.
    """
    try:
        with h5py.File(path, locking=False) as file:
            loads = [dict(group.attrs) for group in file.values()]
    except OSError as error:
        raise InputError(
            f"cannot read the file: {path} ({error_reason(error)}). Use one of vigmpi load-test."
        ) from error
    points = sorted(
        (load["rate"], load["p50"], load["p99"]) for load in loads if load.keys() >= {"rate", "p99"}
    )
    closed = [load["images_per_s"] for load in loads if "in_flight" in load]
    if not points or not closed:
        raise InputError(f"no open loops: {path}. Use a file of vigmpi load-test --rates.")
    rate, p50, p99 = np.array(points).T
    return Curve(path.stem, rate, p50, p99, max(closed))


def figure(curves: Sequence[Curve]) -> Figure:
    """Draw the median and the 99th percentile against the rate; a vertical line is the capacity."""
    drawn = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = drawn.subplots()
    for number, curve in enumerate(curves):
        colour = f"C{number}"
        for line, name, seconds in (("-", "median", curve.p50), ("--", "p99", curve.p99)):
            label = f"{curve.name}, {name}"
            axes.plot(curve.rate, 1000 * seconds, line, color=colour, marker="o", ms=3, label=label)
        axes.axvline(curve.capacity, color=colour, lw=0.8, ls=":")
    axes.set(xlabel="requests per second", ylabel="latency, ms", yscale="log", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.latency", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("files", type=Path, nargs="+", help="files of vigmpi load-test")
    parser.add_argument(
        "--output", type=Path, default=Path("latency.png"), help="file for the figure"
    )
    arguments = parser.parse_args()
    with exit_on_input_error(parser.prog):
        curves = [read_curve(path) for path in arguments.files]
    mpl.rcParams["svg.hashsalt"] = "vigmpi"  # the same data gives the same file
    figure(curves).savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
