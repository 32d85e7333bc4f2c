"""The study's tables, measured beside published: `python -m analysis.tables RECORD...`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.read import PHASES, Record, read
from analysis.statistics import speed_up, two_modes

_PUBLISHED = Path(__file__).with_name("published") / "tables.csv"
_FIGURES = ("mean", "std", "min", "max")


def published() -> pd.DataFrame:
    """The study's Tables 1-9: seconds for a mini-batch of 1000 images a copy."""
    return pd.read_csv(_PUBLISHED)


def tables(records: Sequence[Record]) -> str:
    parts = [_heading(records), "## Mini-batches", _mini_batches(records)]
    parts += ["## One block and the readout", _parts(records)]
    if any(record.layout[:2] == (1, 1) for record in records):
        parts += ["## Speed-up over the sequential run", _speed_ups(records)]
    warnings = list(_warnings(records))
    return "\n\n".join([*parts, *warnings]) + "\n"


def _heading(records: Sequence[Record]) -> str:
    sizes = sorted({int(record.settings["batch_size"]) for record in records})
    data = sorted({record.dataset for record in records})
    return (
        f"Mini-batches of {', '.join(map(str, sizes))} images a copy (published: 1000 of "
        f"CIFAR-10) of {'; '.join(data)}. Seconds on the slowest rank; the first mini-batch of "
        "each phase, which includes warm-up, is left out."
    )


def _mini_batches(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        for phase in PHASES:
            seconds = record.seconds(phase)
            row = _published_row(record, "model", phase)
            rows.append([_title(record), phase, len(seconds), *_figures(seconds), *row])
    head = ["layout", "phase", "n", *_FIGURES, "table", *(f"published {f}" for f in _FIGURES)]
    return markdown(head, rows)


def _parts(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        if record.layout[:2] != (1, 1):
            continue  # the study has these for its sequential run, where no rank shares a core
        frame = record.parts
        block = frame[frame.part != "readout"]
        for title, part, name in (("a block", block, "block"), ("readout", None, "readout")):
            chosen = frame[frame.part == "readout"] if part is None else part
            for phase in PHASES:
                seconds = chosen[chosen.phase == phase].seconds.dropna()
                row = _published_row(record, name, phase)
                rows.append([_title(record), title, phase, *_figures(seconds, 4), *row])
    head = ["layout", "part", "phase", *_FIGURES, "table", *(f"published {f}" for f in _FIGURES)]
    return markdown(head, rows)


def _speed_ups(records: Sequence[Record]) -> str:
    base = next(record for record in records if record.layout[:2] == (1, 1))
    rows = []
    for record in records:
        for phase in PHASES:
            here = speed_up(base.seconds(phase), record.seconds(phase))
            images = record.settings["replicas"]  # a step sees so many times the images
            then, now = (_published_mean(r, phase) for r in (base, record))
            theirs = f"{images * then / now:.2f}" if then and now else "-"
            measured, low, high = (images * value for value in here)
            rows.append(
                [_title(record), phase, f"{measured:.2f}", f"{low:.2f} to {high:.2f}", theirs]
            )
    head = ["layout", "phase", "images/s over sequential", "95 % interval", "published"]
    return markdown(head, rows)


def _warnings(records: Iterable[Record]) -> Iterable[str]:
    for record in records:
        for phase in PHASES:
            if modes := two_modes(record.seconds(phase)):
                yield (
                    f"**{_title(record)}, {phase}: two modes**, around {modes[0]:.3f} s and "
                    f"{modes[1]:.3f} s; its mean stands for neither."
                )


def _title(record: Record) -> str:
    stages, replicas, chunks = record.layout
    if stages == replicas == 1:
        return "sequential"
    split = "|".join(map(str, record.split))
    return f"{stages} stages ({split}) x {replicas}, {chunks} chunks"


def _published_row(record: Record, part: str, phase: str) -> list[object]:
    row = _find(record, part, phase)
    if row is None:
        return ["-"] * 5
    return [row.table, *(getattr(row, f"{figure}_s") for figure in _FIGURES)]


def _published_mean(record: Record, phase: str) -> float | None:
    row = _find(record, "model", phase)
    return None if row is None else float(row.mean_s)


def _find(record: Record, part: str, phase: str) -> pd.Series | None:
    """The study's row for this layout. Its four stages had 12 blocks, as 6|2|2|2."""
    stages, replicas, chunks = record.layout
    blocks = int(record.settings["blocks"])
    if blocks != (12 if stages == 4 else 8):
        return None
    wanted = {"stages": stages, "replicas": replicas, "part": part, "phase": phase}
    if stages * replicas > 1:
        wanted["chunks"] = chunks
    rows = published()
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return None if rows.empty else rows.iloc[0]


def _figures(seconds: pd.Series, digits: int = 3) -> list[str]:
    values = (seconds.mean(), seconds.std(), seconds.min(), seconds.max())
    return [f"{value:.{digits}f}" for value in values]


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.tables", description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", help="HDF5 files of runs")
    parser.add_argument("--output", type=Path, help="Markdown file (default: print it)")
    arguments = parser.parse_args()
    text = tables([read(path) for path in arguments.records])
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
