"""Accuracy on held-out images against the minutes of training: a table and a figure.

A record NAME.h5 of a training is accompanied by NAME-test.h5, the record of its evaluation on the
test images. A file of `analysis.experiments.plain_cnn` holds both.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from analysis.read import Record, read
from analysis.script import exit_on_input_error

LEVELS = (0.7, 0.8)


class Curve(NamedTuple):
    """One training.

    Attributes:
        name: name of the file, without its suffix.
        minutes: minutes of training and tests up to the end of each epoch's test, [epochs].
        accuracy: accuracy on held-out images as a fraction, [epochs].
        raw_accuracy: that of the raw weights if `accuracy` is that of their averages, or NaN.
        test_accuracy: accuracy on the test images after the last epoch, or NaN if there is none.
    """

    name: str
    minutes: np.ndarray
    accuracy: np.ndarray
    raw_accuracy: np.ndarray
    test_accuracy: float

    def minutes_to(self, accuracy: float) -> float:
        """Return the minutes after which this accuracy was first reached, or NaN."""
        reached = np.flatnonzero(self.accuracy >= accuracy)
        return float(self.minutes[reached[0]]) if len(reached) else np.nan


def read_curve(path: Path) -> Curve:
    """Read a training's record, or the file of a plain network.

    Raises:
        InputError: if the file cannot be read or has another format.
    """
    if (plain := _read_plain(path)) is not None:
        return plain
    record = read(path)
    tests = record.steps.phase == "test"
    epochs = record.steps.epoch
    minutes = record.steps.step_s.cumsum()[tests].groupby(epochs[tests]).max() / 60
    evaluation = path.with_name(f"{path.stem}-test{path.suffix}")
    test_accuracy = np.nan
    if evaluation.exists():
        [test_accuracy] = _accuracy(read(evaluation), "accuracy")
    return Curve(
        path.stem,
        minutes.to_numpy(),
        _accuracy(record, "accuracy"),
        _accuracy(record, "raw_accuracy"),
        float(test_accuracy),
    )


def _read_plain(path: Path) -> Curve | None:
    try:
        with h5py.File(path, locking=False) as file:
            if "held_out_accuracy" not in file:
                return None
            accuracy, minutes = file["held_out_accuracy"][:], file["minutes"][:]
            test = float(file.attrs["test_accuracy"])
    except OSError:
        return None  # `read` says why
    return Curve(path.stem, minutes, accuracy, np.full(len(accuracy), np.nan), test)


def _accuracy(record: Record, column: str) -> np.ndarray:
    """Return the accuracy of each epoch's test, [epochs]."""
    tests = record.steps[record.steps.phase == "test"]
    correct = (tests[column] * tests.num_images).groupby(tests.epoch).sum(min_count=1)
    return (correct / tests.num_images.groupby(tests.epoch).sum()).to_numpy()


def table(curves: Sequence[Curve]) -> str:
    """Return a Markdown table with one row for each training."""
    heading = ["training", "epochs", "minutes", *(f"minutes to {level:.0%}" for level in LEVELS)]
    heading += ["held out, %", "held out, raw weights, %", "test, %"]
    lines = [_row(heading), "|---" * len(heading) + "|"]
    for curve in curves:
        minutes = [curve.minutes[-1], *map(curve.minutes_to, LEVELS)]
        fractions = curve.accuracy[-1], curve.raw_accuracy[-1], curve.test_accuracy
        cells = [curve.name, str(len(curve.minutes)), *(f"{value:.1f}" for value in minutes)]
        lines.append(_row([*cells, *(f"{100 * value:.2f}" for value in fractions)]))
    return "\n".join(lines).replace("nan", "-")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure(curves: Sequence[Curve]) -> Figure:
    """Draw the accuracy on held-out images against the minutes of training."""
    drawn = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = drawn.subplots()
    for curve in curves:
        axes.plot(curve.minutes, 100 * curve.accuracy, marker="o", ms=3, lw=1.2, label=curve.name)
    axes.set(xlabel="minutes", ylabel="accuracy on held-out images, %", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.accuracy", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("records", type=Path, nargs="+", help="HDF5 files of trainings")
    parser.add_argument("--output", type=Path, help="file for the figure, such as a.svg")
    arguments = parser.parse_args()
    with exit_on_input_error(parser.prog):
        curves = [read_curve(path) for path in arguments.records]
    print(table(curves))
    if arguments.output:
        mpl.rcParams["svg.hashsalt"] = "vigmpi"  # the same data gives the same file
        figure(curves).savefig(arguments.output, dpi=150)


if __name__ == "__main__":
    main()
