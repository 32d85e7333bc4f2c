"""The study's 4 stages explained, then the same law on runs: `python -m analysis.corrections`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from analysis.cost_model import predicted
from analysis.read import PHASES, Record, read
from analysis.tables import markdown, published

_EVEN, _AS_RUN, _AS_MEANT = (4, 4), (6, 2, 2, 2), (2, 2, 2, 2)


def of_the_study() -> str:
    """Its 4-stage times, predicted from its own 2-stage times."""
    rows = []
    for chunks in (5, 10):
        for phase in PHASES:
            two, four = (_published(stages, chunks, phase) for stages in (2, 4))
            for figure in ("mean_s", "min_s"):
                as_run = predicted(two[figure], _EVEN, _AS_RUN, chunks)
                as_meant = predicted(two[figure], _EVEN, _AS_MEANT, chunks)
                name = figure.removesuffix("_s")
                figures = [f"{v:.2f}" for v in (two[figure], as_run, four["mean_s"], as_meant)]
                rows.append([chunks, phase, name, *figures])
    head = ["chunks", "phase", "2-stage", "4|4, s", "predicted 6|2|2|2"]
    return markdown([*head, "measured, mean", "predicted 2|2|2|2"], rows)


def of_runs(records: Sequence[Record]) -> str:
    """Every pipeline of one replica, predicted from the even two stages with as many chunks."""
    even = {
        record.layout[2]: record
        for record in records
        if record.layout[:2] == (2, 1) and record.split == _EVEN
    }
    rows = []
    for record in records:
        stages, replicas, chunks = record.layout
        if stages == 1 or replicas > 1 or chunks not in even or record is even[chunks]:
            continue
        for phase in PHASES:
            base = even[chunks].seconds(phase).median()
            guess = predicted(base, _EVEN, record.split, chunks)
            measured = record.seconds(phase).median()
            split = "|".join(map(str, record.split))
            times = [f"{v:.3f}" for v in (base, guess, measured)]
            rows.append([chunks, phase, split, *times, f"{measured / guess:.2f}"])
    head = ["chunks", "phase", "split", "4|4, s", "predicted, s", "measured, s", "ratio"]
    return markdown(head, rows)


def of_micro_batches(records: Sequence[Record]) -> str:
    """What batch norm over micro-batches does to the loss, beside the same run in one chunk."""
    whole = next((record for record in records if record.layout == (1, 1, 1)), None)
    rows = []
    for record in records:
        stages, replicas, chunks = record.layout
        if whole is None or record is whole or replicas > 1:
            continue
        if record.settings["blocks"] != whole.settings["blocks"]:
            continue
        both = [r.steps[r.steps.phase == "train"].loss.to_numpy() for r in (whole, record)]
        apart = abs(both[1] / both[0] - 1)
        figures = [
            f"{both[0][0]:.5g}",
            f"{both[1][0]:.5g}",
            f"{apart[0]:.2%}",
            f"{apart.mean():.2%}",
        ]
        rows.append([stages, chunks, *figures])
    head = ["stages", "chunks", "first loss, 1 chunk", "first loss", "apart", "apart, mean of run"]
    return markdown(head, rows)


def _published(stages: int, chunks: int, phase: str) -> dict[str, float]:
    rows = published()
    for column, value in (
        *(("stages", stages), ("replicas", 1), ("chunks", chunks)),
        *(("phase", phase), ("part", "model")),
    ):
        rows = rows[rows[column] == value]
    return rows.iloc[0].to_dict()


def corrections(records: Sequence[Record]) -> Iterable[str]:
    yield of_the_study()
    if records:
        yield of_runs(records)
        yield of_micro_batches(records)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.corrections", description=__doc__)
    parser.add_argument("records", type=Path, nargs="*", help="HDF5 files of runs")
    arguments = parser.parse_args()
    print("\n\n".join(corrections([read(path) for path in arguments.records])))


if __name__ == "__main__":
    main()
