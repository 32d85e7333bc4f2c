"""Figures of runs, written as SVG and PNG files."""

import argparse
import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.read import PHASES, Record, read
from analysis.script import exit_on_input_error
from vigmpi.schedule.kinds import KINDS

_WIDTH = 9.0  # inches


def pipeline(record: Record, mini_batch: int) -> Figure:
    """Draw the actions of every rank in one mini-batch (the study's Figure 1, from a trace)."""
    spans = record.trace[record.trace.mini_batch == mini_batch]
    origin, end = spans.start_s.min(), spans.end_s.max()
    figure = Figure(figsize=(_WIDTH, 1.2 + 0.45 * len(record.ranks)), layout="constrained")
    axes = figure.subplots()
    drawn = {str(kind): description for kind, description in KINDS.items() if description.colour}
    for kind, description in drawn.items():
        bars = spans[spans.kind == kind]
        if bars.empty:
            continue
        axes.barh(
            bars["rank"],
            bars.end_s - bars.start_s,
            left=bars.start_s - origin,
            height=0.8,
            color=description.colour,
            edgecolor="white",
            linewidth=0.5,
            label=description.label,
        )
        for span in bars[bars.micro_batch >= 0].itertuples():
            if span.end_s - span.start_s > 0.02 * (end - origin):
                middle = (span.start_s + span.end_s) / 2 - origin
                number = axes.text(middle, span.rank, str(span.micro_batch), ha="center")
                number.set(va="center", color="white", fontsize=8)
    cut = record.ranks.part.any()
    labels = [
        f"replica {r.replica}, stage {r.stage}{f', part {r.part}' if cut else ''}"
        for r in record.ranks.itertuples()
    ]
    axes.set_yticks(record.ranks.index, labels)
    axes.invert_yaxis()
    axes.set_xlabel("time, s")
    axes.set_xlim(0, end - origin)
    axes.set_title(f"{record.name}: mini-batch {mini_batch} (numbers are micro-batches)")
    figure.legend(loc="outside lower center", ncols=len(drawn), frameon=False)
    return figure


def rank_map(record: Record) -> Figure:
    """Draw the ranks as a grid of replicas, their parts, and stages, with blocks and hosts."""
    stages, replicas, _ = record.layout
    parts = 1 + int(record.ranks.part.max())
    figure = Figure(figsize=(1.5 + 1.9 * stages, 1 + 0.8 * replicas * parts), layout="constrained")
    axes = figure.subplots()
    hosts = sorted(set(record.ranks.host))
    colours = mpl.colormaps["Pastel1"]
    for rank, row in record.ranks.iterrows():
        colour = colours(hosts.index(row.host) % colours.N)
        bottom = row.replica + 0.95 * row.part / parts
        corner, height = (row.stage, bottom), 0.95 / parts - 0.05
        axes.add_patch(mpl.patches.Rectangle(corner, 0.94, height, color=colour))
        blocks = f"blocks {row.first_block}-{row.first_block + row.num_blocks - 1}"
        text = f"rank {rank}\n{blocks}\n{row.host}"
        middle = bottom + height / 2
        axes.text(row.stage + 0.47, middle, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(np.arange(stages) + 0.47, [f"stage {s}" for s in range(stages)])
    axes.set_yticks(np.arange(replicas) + 0.45, [f"replica {r}" for r in range(replicas)])
    axes.set_xlim(-0.05, stages)
    axes.set_ylim(replicas, -0.05)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{record.name} (one colour per host)")
    return figure


def learning(records: Sequence[Record]) -> Figure:
    """Draw the training loss over steps and over images seen, and the test accuracy.

    Records whose names differ only in a final `-seedN` form one line: their mean, in a band from
    their minimum to their maximum.
    """
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    by_step, by_images, accuracy = figure.subplots(1, 3)
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(re.sub(r"-seed\d+$", "", record.name), []).append(record)
    for colour, (name, group) in zip(_colours(), runs.items(), strict=False):
        label = name if len(group) == 1 else f"{name} ({len(group)} seeds)"
        losses = pd.concat([_training(record) for record in group], axis=1)
        losses.columns = ["seen", "loss"] * len(group)
        seen = losses["seen"].to_numpy().reshape(len(losses), -1)[:, 0]
        _band(by_step, np.arange(1, len(losses) + 1), losses["loss"], colour, label)
        _band(by_images, seen, losses["loss"], colour)
        fractions = pd.concat([_test_accuracy(record) for record in group], axis=1)
        _band(accuracy, fractions.index.to_numpy(), 100 * fractions, colour, marker="o", ms=3)
    for axes, label in ((by_step, "training steps"), (by_images, "training images seen")):
        axes.set(xlabel=label, ylabel="training loss", yscale="log")
    accuracy.set(xlabel="training images seen", ylabel="test accuracy, %")
    accuracy.set_ylim(bottom=0)
    for axes in (by_images, accuracy):
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _training(record: Record) -> pd.DataFrame:
    train = record.steps[record.steps.phase == "train"]
    return train[["seen", "loss"]].reset_index(drop=True)


def _test_accuracy(record: Record) -> pd.Series:
    """Return the test accuracy of each epoch, indexed by the training images seen before it."""
    test = record.steps[record.steps.phase == "test"]
    correct = (test.accuracy * test.num_images).groupby(test.seen).sum()
    return correct / test.num_images.groupby(test.seen).sum()


def _band(
    axes: Axes,
    x: np.ndarray,
    values: pd.DataFrame | pd.Series,
    colour: str,
    label: str = "",
    **line: Any,
) -> None:
    """Draw the mean of the runs, [len(x), runs], and the band from minimum to maximum."""
    runs = values.to_numpy().reshape(len(x), -1)
    axes.plot(x, runs.mean(axis=1), color=colour, lw=1.2, label=label or None, **line)
    if runs.shape[1] > 1:
        axes.fill_between(x, runs.min(axis=1), runs.max(axis=1), color=colour, alpha=0.2, lw=0)


def step_times(records: Sequence[Record]) -> Figure:
    """Draw the time of every mini-batch, which makes bimodal samples visible."""
    figure = Figure(figsize=(_WIDTH, 1 + 0.4 * len(records)), layout="constrained")
    random = np.random.default_rng(0)
    for axes, phase in zip(figure.subplots(1, 2, sharey=True), PHASES, strict=True):
        for y, record in enumerate(records):
            seconds = record.step_seconds(phase)
            jitter = y + random.uniform(-0.25, 0.25, len(seconds))
            axes.plot(seconds, jitter, ".", ms=4, alpha=0.6)
            axes.plot([seconds.mean()] * 2, [y - 0.35, y + 0.35], "k-", lw=1)
        axes.set_yticks(range(len(records)), [record.name for record in records])
        axes.set_xlabel(f"{phase}: time per mini-batch, s (line: mean)")
        axes.set_xlim(left=0)
    axes.set_ylim(len(records) - 0.5, -0.5)
    return figure


def scaling(records: Sequence[Record]) -> Figure:
    """Draw images per second over the number of threads, and the parallel efficiency.

    The efficiency is the rate per thread relative to that of the sequential run.
    """
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    rate_axes, efficiency_axes = figure.subplots(1, 2)
    base = next((record for record in records if record.is_sequential), None)
    for colour, record in zip(_colours(), records, strict=False):
        rate, threads = _images_per_second(record), _num_threads(record)
        style = {"color": colour, "ms": 5}
        rate_axes.plot(
            threads, rate, "o", label=f"{record.name} ({len(record.ranks)} ranks)", **style
        )
        if base:
            base_rate = _images_per_second(base) / _num_threads(base)
            efficiency_axes.plot(threads, 100 * rate / threads / base_rate, "o", **style)
    if base:
        ends = np.array([_num_threads(base), max(map(_num_threads, records))])
        rate_axes.plot(ends, ends * _images_per_second(base) / ends[0], "k:", lw=1, label="ideal")
        efficiency_axes.axhline(100, color="k", ls=":", lw=1)
    cores = records[0].ranks.groupby("host").cores.max().sum()
    label = f"threads on all ranks ({cores} cores)"
    rate_axes.set(xlabel=label, ylabel="training images per second")
    efficiency_axes.set(xlabel=label, ylabel="efficiency, %")
    for axes in (rate_axes, efficiency_axes):
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted(set(map(_num_threads, records))))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _colours() -> Iterator[Any]:
    return cycle(mpl.colormaps["tab20"]([*range(0, 20, 2), *range(1, 20, 2)]))  # dark colours first


def _num_threads(record: Record) -> int:
    return int(record.ranks.threads.sum())


def _images_per_second(record: Record) -> float:
    num_images = int(record.settings["batch_size"]) * int(record.settings["replicas"])
    return num_images / record.step_seconds("train").mean()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", help="HDF5 records of runs")
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder to write to (default: current folder)"
    )
    arguments = parser.parse_args()
    with exit_on_input_error(parser.prog):
        records = [read(path) for path in arguments.records]
    figures = {
        "learning": learning(records),
        "step-times": step_times(records),
        "scaling": scaling(records),
    }
    for record in records:
        figures[f"{record.name}-ranks"] = rank_map(record)
        if not record.trace.empty:
            last = record.steps.index[record.steps.phase == "train"].max()
            figures[f"{record.name}-pipeline"] = pipeline(record, int(last))
    arguments.output.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "vigmpi"  # the same data gives the same files
    for name, figure in figures.items():
        for suffix in ("svg", "png"):
            figure.savefig(arguments.output / f"{name}.{suffix}", dpi=150)


if __name__ == "__main__":
    main()
