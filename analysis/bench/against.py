"""Two checkouts timed in alternation: `python -m analysis.bench --against PATH`."""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike

from analysis.bench.checkouts import STUDY, run
from analysis.statistics import median_ratio
from vigmpi.host import processor_name

MIN_ROUNDS = 9
MAX_WIDTH = 0.04  # of the 95 % interval of each ratio
MAX_SECONDS = 40 * 60.0

_OPTIONS = (
    *STUDY,
    *("--dataset", "synthetic", "--batch-size", "200", "--epochs", "1", "--keep", "0"),
    *("--steps", "8", "--test-steps", "1", "--progress", "off"),
)
_PIPELINE = ("--stages", "2", "--chunks", "5", "--threads", "1")
QUANTITIES = {
    "step": "training step on one rank with all cores",
    "pipeline": "training step of two stages with one thread each",
    "start_up": "start and end of one rank, without its steps",
}


class Times(NamedTuple):
    """Seconds that one run spends in its steps and in everything else.

    Attributes:
        step: median of the training steps, warm-up excluded.
        rest: wall time of the run without its steps.
    """

    step: float
    rest: float


def alternate(here: Path, other: Path) -> dict[str, np.ndarray]:
    """Time both checkouts in alternation until the ratios are known well enough.

    Every round times each checkout once. The order alternates between rounds, so that neither
    checkout always runs first. Rounds are added until the 95 % interval of every ratio is at
    most `MAX_WIDTH` wide, or until `MAX_SECONDS` have passed.

    Returns:
        Seconds of each quantity in `QUANTITIES`, [rounds, 2]: `here`, then `other`.
    """
    start = time.monotonic()
    for checkout in (here, other):
        _measure(checkout)  # compiles the kernels and fills the file cache
    rounds: list[list[list[float]]] = []
    while len(rounds) < MIN_ROUNDS or (
        _max_width(_columns(rounds)) > MAX_WIDTH and time.monotonic() - start < MAX_SECONDS
    ):
        order = (0, 1) if len(rounds) % 2 == 0 else (1, 0)
        measured = {side: _measure((here, other)[side]) for side in order}
        rounds.append([measured[0], measured[1]])
    return _columns(rounds)


def table(seconds: Mapping[str, np.ndarray]) -> str:
    """Return a Markdown table of the medians and their ratios."""
    lines = ["| quantity | this, s | other, s | ratio | 95 % interval | |", "|---" * 6 + "|"]
    for name, pairs in seconds.items():
        this, other = np.median(pairs, axis=0)
        ratio, low, high = median_ratio(*pairs.T)
        verdict = "" if high - low <= MAX_WIDTH else "undecided"
        lines.append(
            f"| {QUANTITIES[name]} | {this:.3f} | {other:.3f} | {ratio:.3f} "
            f"| {low:.3f} to {high:.3f} | {verdict} |"
        )
    rounds = len(next(iter(seconds.values())))
    return "\n".join([*lines, "", f"{rounds} rounds; {processor_name()}, {os.cpu_count()} cores"])


def write(path: Path, seconds: Mapping[str, np.ndarray], other: Path) -> None:
    """Write the seconds of every round to an HDF5 file."""
    with h5py.File(path, "w") as file:
        file.attrs.update(processor=processor_name(), cores=os.cpu_count(), other=other.name)
        for name, pairs in seconds.items():
            dataset = file.create_dataset(name, data=pairs)
            dataset.attrs.update(unit="s", description=QUANTITIES[name], columns="this, other")


def _measure(checkout: Path) -> list[float]:
    one, two = _times(checkout, ()), _times(checkout, _PIPELINE, ranks=2)
    return [one.step, two.step, one.rest]


def _times(checkout: Path, options: Sequence[str], ranks: int | None = None) -> Times:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run.h5"
        wall = run(checkout, [*_OPTIONS, *options, "--record", str(record)], ranks=ranks)
        with h5py.File(record) as file:
            steps = file["timings/step_s"][:].max(axis=1)
            training = (file["steps/phase"][:] == 0) & (file["steps/warm_up"][:] == 0)
    return Times(float(np.median(steps[training])), wall - float(steps.sum()))


def _columns(rounds: ArrayLike) -> dict[str, np.ndarray]:
    """Return the seconds of each quantity, [rounds, 2], from [rounds, 2, quantities]."""
    return dict(zip(QUANTITIES, np.moveaxis(np.asarray(rounds), 2, 0), strict=True))


def _max_width(seconds: Mapping[str, np.ndarray]) -> float:
    intervals = [median_ratio(*pairs.T) for pairs in seconds.values()]
    return max(high - low for _, low, high in intervals)
