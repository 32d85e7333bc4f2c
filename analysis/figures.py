"""Figures of runs: `python -m analysis.figures RECORD... --output FOLDER` (SVG and PNG)."""

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

_KINDS = {
    "F": ("forward", "#4477aa"),
    "B": ("backward", "#ee6677"),
    "gradient sum": ("gradient sum", "#228833"),
    "optimizer": ("optimizer", "#ccbb44"),
    "data": ("data", "#bbbbbb"),
}
_WIDTH = 9.0  # inches


def pipeline(record: Record, mini_batch: int) -> Figure:
    """What every rank did in one mini-batch (the study's Figure 1, from a real trace)."""
    spans = record.trace[record.trace.mini_batch == mini_batch]
    origin, end = spans.start_s.min(), spans.end_s.max()
    figure = Figure(figsize=(_WIDTH, 1.2 + 0.45 * len(record.ranks)), layout="constrained")
    axes = figure.subplots()
    for kind, (label, colour) in _KINDS.items():
        rows = spans[spans.kind == kind]
        if rows.empty:
            continue
        axes.barh(
            rows["rank"],
            rows.end_s - rows.start_s,
            left=rows.start_s - origin,
            height=0.8,
            color=colour,
            edgecolor="white",
            linewidth=0.5,
            label=label,
        )
        for span in rows[rows.micro_batch >= 0].itertuples():
            if span.end_s - span.start_s > 0.02 * (end - origin):
                middle = (span.start_s + span.end_s) / 2 - origin
                number = axes.text(middle, span.rank, str(span.micro_batch), ha="center")
                number.set(va="center", color="white", fontsize=8)
    places = [f"replica {r.replica}, stage {r.stage}" for r in record.ranks.itertuples()]
    axes.set_yticks(record.ranks.index, places)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.set_xlim(0, end - origin)
    axes.set_title(f"{record.name}: mini-batch {mini_batch} (numbers: micro-batches)")
    figure.legend(loc="outside lower center", ncols=len(_KINDS), frameon=False)
    return figure


def rank_map(record: Record) -> Figure:
    """Which rank runs what."""
    stages, replicas, _ = record.layout
    figure = Figure(figsize=(1.5 + 1.9 * stages, 1 + 0.8 * replicas), layout="constrained")
    axes = figure.subplots()
    hosts = sorted(set(record.ranks.host))
    colours = mpl.colormaps["Pastel1"]
    for rank, row in record.ranks.iterrows():
        colour = colours(hosts.index(row.host) % colours.N)
        axes.add_patch(mpl.patches.Rectangle((row.stage, row.replica), 0.94, 0.9, color=colour))
        blocks = f"blocks {row.first_block}-{row.first_block + row.num_blocks - 1}"
        text = f"rank {rank}\n{blocks}\n{row.host}"
        axes.text(row.stage + 0.47, row.replica + 0.45, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(np.arange(stages) + 0.47, [f"stage {s}" for s in range(stages)])
    axes.set_yticks(np.arange(replicas) + 0.45, [f"replica {r}" for r in range(replicas)])
    axes.set_xlim(-0.05, stages)
    axes.set_ylim(replicas, -0.05)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{record.name} (a colour a host)")
    return figure


def learning(records: Sequence[Record]) -> Figure:
    """Training loss against steps and against images seen, and test accuracy.

    Records that differ in their seed alone, and end in `-seedN`, make one line: their mean, in a
    band from the least to the largest.
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
        shares = pd.concat([_test_accuracy(record) for record in group], axis=1)
        _band(accuracy, shares.index.to_numpy(), 100 * shares, colour, marker="o", ms=3)
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
    """Of each epoch, by the training images seen before."""
    test = record.steps[record.steps.phase == "test"]
    right = (test.accuracy * test.num_images).groupby(test.seen).sum()
    return right / test.num_images.groupby(test.seen).sum()


def _band(
    axes: Axes,
    x: np.ndarray,
    values: pd.DataFrame | pd.Series,
    colour: str,
    label: str = "",
    **line: Any,
) -> None:
    """The mean of some runs, and the least and largest of them."""
    runs = values.to_numpy().reshape(len(x), -1)
    axes.plot(x, runs.mean(axis=1), color=colour, lw=1.2, label=label or None, **line)
    if runs.shape[1] > 1:
        axes.fill_between(x, runs.min(axis=1), runs.max(axis=1), color=colour, alpha=0.2, lw=0)


def step_times(records: Sequence[Record]) -> Figure:
    """Every mini-batch's time, so that two modes show."""
    figure = Figure(figsize=(_WIDTH, 1 + 0.4 * len(records)), layout="constrained")
    random = np.random.default_rng(0)
    for axes, phase in zip(figure.subplots(1, 2, sharey=True), PHASES, strict=True):
        for y, record in enumerate(records):
            seconds = record.seconds(phase)
            jitter = y + random.uniform(-0.25, 0.25, len(seconds))
            axes.plot(seconds, jitter, ".", ms=4, alpha=0.6)
            axes.plot([seconds.mean()] * 2, [y - 0.35, y + 0.35], "k-", lw=1)
        axes.set_yticks(range(len(records)), [record.name for record in records])
        axes.set_xlabel(f"{phase}: seconds a mini-batch (line: mean)")
        axes.set_xlim(left=0)
    axes.set_ylim(len(records) - 0.5, -0.5)
    return figure


def scaling(records: Sequence[Record]) -> Figure:
    """Images a second over threads, and the share of the sequential run's rate a thread keeps."""
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    rate_axes, efficiency_axes = figure.subplots(1, 2)
    base = next((record for record in records if record.layout[:2] == (1, 1)), None)
    for colour, record in zip(_colours(), records, strict=False):
        rate, threads = _rate(record), _threads(record)
        dot = {"color": colour, "ms": 5}
        rate_axes.plot(
            threads, rate, "o", label=f"{record.name} ({len(record.ranks)} ranks)", **dot
        )
        if base:
            alone = _rate(base) / _threads(base)
            efficiency_axes.plot(threads, 100 * rate / threads / alone, "o", **dot)
    if base:
        ends = np.array([_threads(base), max(map(_threads, records))])
        rate_axes.plot(ends, ends * _rate(base) / ends[0], "k:", lw=1, label="ideal")
        efficiency_axes.axhline(100, color="k", ls=":", lw=1)
    cores = records[0].ranks.groupby("host").cores.max().sum()
    label = f"threads of all ranks ({cores} cores)"
    rate_axes.set(xlabel=label, ylabel="training images a second")
    efficiency_axes.set(xlabel=label, ylabel="efficiency, %")
    for axes in (rate_axes, efficiency_axes):
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted(set(map(_threads, records))))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _colours() -> Iterator[Any]:
    return cycle(mpl.colormaps["tab20"]([*range(0, 20, 2), *range(1, 20, 2)]))  # dark ones first


def _threads(record: Record) -> int:
    return int(record.ranks.threads.sum())


def _rate(record: Record) -> float:
    images = int(record.settings["batch_size"]) * int(record.settings["replicas"])
    return images / record.seconds("train").mean()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", help="HDF5 files of runs")
    parser.add_argument("--output", type=Path, default=Path(), help="folder (default: here)")
    arguments = parser.parse_args()
    records = [read(path) for path in arguments.records]
    drawn = {
        "learning": learning(records),
        "step-times": step_times(records),
        "scaling": scaling(records),
    }
    for record in records:
        drawn[f"{record.name}-ranks"] = rank_map(record)
        if not record.trace.empty:
            last = record.steps.index[record.steps.phase == "train"].max()
            drawn[f"{record.name}-pipeline"] = pipeline(record, int(last))
    arguments.output.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "vigmpi"  # equal data, equal files
    for name, figure in drawn.items():
        for kind in ("svg", "png"):
            figure.savefig(arguments.output / f"{name}.{kind}", dpi=150)


if __name__ == "__main__":
    main()
