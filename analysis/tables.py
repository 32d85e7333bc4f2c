"""Markdown tables of measured times and of the times that the study published."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.read import PHASES, Record, read
from analysis.script import exit_on_input_error
from analysis.statistics import speed_up, two_modes

_PUBLISHED = Path(__file__).with_name("published") / "tables.csv"
_PUBLISHED_PARTS = {"head": "readout"}  # names of parts that differ in the study
_STATISTICS = ("mean", "std", "min", "max")
_PUBLISHED_COLUMNS = ("table", *(f"published {name}" for name in _STATISTICS))


def published_row(part: str, phase: str, **layout: int) -> pd.Series | None:
    """Return the study's row (Tables 1-9) for a layout, or None if it has none.

    The row gives seconds per mini-batch of 1000 images per replica.

    Args:
        part: `model`, `block` or `head`.
        phase: `train` or `test`.
        layout: any of `stages`, `replicas` and `chunks`.
    """
    rows = pd.read_csv(_PUBLISHED)
    wanted = {**layout, "part": _PUBLISHED_PARTS.get(part, part), "phase": phase}
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return None if rows.empty else rows.iloc[0]


def tables(records: Sequence[Record]) -> str:
    """Return all tables in Markdown, with a warning for each sample that has two modes."""
    sections = [_introduction(records), "## Mini-batches", _mini_batches(records)]
    sections += ["## One block and the head", _layers(records)]
    if any(record.is_sequential for record in records):
        sections += ["## Speed-up over the sequential run", _speed_ups(records)]
    return "\n\n".join([*sections, *_warnings(records)]) + "\n"


def _introduction(records: Sequence[Record]) -> str:
    sizes = sorted({int(record.settings["batch_size"]) for record in records})
    datasets = sorted({record.dataset for record in records})
    return (
        f"Mini-batches of {', '.join(map(str, sizes))} images per replica; data set: "
        f"{'; '.join(datasets)}. The study used 1000 images of CIFAR-10. Times are in seconds on "
        "the slowest rank. The first mini-batch of each phase is excluded because it includes "
        "warm-up."
    )


def _mini_batches(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        for phase in PHASES:
            seconds = record.step_seconds(phase)
            published = _published_cells(record, "model", phase)
            rows.append([_title(record), phase, len(seconds), *_statistics(seconds), *published])
    return markdown(["layout", "phase", "n", *_STATISTICS, *_PUBLISHED_COLUMNS], rows)


def _layers(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        if not record.is_sequential:
            continue  # the study timed layers only in its sequential run, where no core is shared
        times = record.layer_seconds
        is_head = times.layer == "head"
        for name, layer in (("block", times[~is_head]), ("head", times[is_head])):
            for phase in PHASES:
                seconds = layer[layer.phase == phase].seconds.dropna()
                published = _published_cells(record, name, phase)
                rows.append([_title(record), name, phase, *_statistics(seconds, 4), *published])
    return markdown(["layout", "layer", "phase", *_STATISTICS, *_PUBLISHED_COLUMNS], rows)


def _speed_ups(records: Sequence[Record]) -> str:
    base = next(record for record in records if record.is_sequential)
    rows = []
    for record in records:
        for phase in PHASES:
            ratios = speed_up(base.step_seconds(phase), record.step_seconds(phase))
            replicas = record.settings["replicas"]  # a step processes this many times the images
            base_s, record_s = (_published_mean(r, phase) for r in (base, record))
            published = f"{replicas * base_s / record_s:.2f}" if base_s and record_s else "-"
            measured, low, high = (replicas * ratio for ratio in ratios)
            interval = f"{low:.2f} to {high:.2f}"
            rows.append([_title(record), phase, f"{measured:.2f}", interval, published])
    head = ["layout", "phase", "images/s relative to sequential", "95 % interval", "published"]
    return markdown(head, rows)


def _warnings(records: Iterable[Record]) -> Iterable[str]:
    for record in records:
        for phase in PHASES:
            if modes := two_modes(record.step_seconds(phase)):
                yield (
                    f"**{_title(record)}, {phase}: two modes**, around {modes[0]:.3f} s and "
                    f"{modes[1]:.3f} s; the mean represents neither."
                )


def _title(record: Record) -> str:
    stages, replicas, chunks = record.layout
    if stages == replicas == 1:
        return "sequential"
    split = "|".join(map(str, record.split))
    return f"{stages} stages ({split}) x {replicas}, {chunks} chunks"


def _published_cells(record: Record, part: str, phase: str) -> list[object]:
    row = _find_published(record, part, phase)
    if row is None:
        return ["-"] * len(_PUBLISHED_COLUMNS)
    return [row.table, *(row[f"{name}_s"] for name in _STATISTICS)]


def _published_mean(record: Record, phase: str) -> float | None:
    row = _find_published(record, "model", phase)
    return None if row is None else float(row.mean_s)


def _find_published(record: Record, part: str, phase: str) -> pd.Series | None:
    """Return the study's row for a record's layout; its four stages had 12 blocks, as 6|2|2|2.

    Only the study's model has a setting `blocks`.
    """
    stages, replicas, chunks = record.layout
    if int(record.settings.get("blocks", 0)) != (12 if stages == 4 else 8):
        return None
    layout = {"stages": stages, "replicas": replicas}
    if stages * replicas > 1:
        layout["chunks"] = chunks
    return published_row(part, phase, **layout)


def _statistics(seconds: pd.Series, digits: int = 3) -> list[str]:
    values = (seconds.mean(), seconds.std(), seconds.min(), seconds.max())
    return [f"{value:.{digits}f}" for value in values]


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table with the bars in its cells escaped."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.tables", description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", help="HDF5 records of runs")
    parser.add_argument("--output", type=Path, help="Markdown file to write (default: print)")
    arguments = parser.parse_args()
    with exit_on_input_error(parser.prog):
        text = tables([read(path) for path in arguments.records])
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
