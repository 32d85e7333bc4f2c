"""Tables that explain the study's 4-stage times and its claim about micro-batches."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from analysis.cost_model import predict_seconds
from analysis.read import PHASES, Record, read
from analysis.script import exit_on_input_error
from analysis.tables import markdown, published_row

_EVEN, _AS_RUN, _INTENDED = (4, 4), (6, 2, 2, 2), (2, 2, 2, 2)


def predict_published() -> str:
    """Return the study's 4-stage times and predictions of them from its 2-stage times."""
    rows = []
    for chunks in (5, 10):
        for phase in PHASES:
            two, four = (_published(stages, chunks, phase) for stages in (2, 4))
            for column in ("mean_s", "min_s"):
                as_run = predict_seconds(two[column], _EVEN, _AS_RUN, chunks)
                intended = predict_seconds(two[column], _EVEN, _INTENDED, chunks)
                times = [f"{v:.2f}" for v in (two[column], as_run, four["mean_s"], intended)]
                rows.append([chunks, phase, column.removesuffix("_s"), *times])
    head = ["chunks", "phase", "2-stage statistic", "4|4, s", "predicted 6|2|2|2"]
    return markdown([*head, "measured, mean", "predicted 2|2|2|2"], rows)


def predict_measured(records: Sequence[Record]) -> str:
    """Return the times of single pipelines and predictions of them.

    A run is predicted from the two-stage run with 4|4 blocks and the same number of chunks.
    """
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
            base = even[chunks].step_seconds(phase).median()
            predicted = predict_seconds(base, _EVEN, record.split, chunks)
            measured = record.step_seconds(phase).median()
            split = "|".join(map(str, record.split))
            times = [f"{v:.3f}" for v in (base, predicted, measured)]
            rows.append([chunks, phase, split, *times, f"{measured / predicted:.2f}"])
    head = ["chunks", "phase", "split", "4|4, s", "predicted, s", "measured, s", "ratio"]
    return markdown(head, rows)


def compare_micro_batches(records: Sequence[Record]) -> str:
    """Return the effect on the loss of batch norm over micro-batches.

    Each run of one replica is compared with the sequential run in one chunk of the same model.
    """
    base = next((record for record in records if record.layout == (1, 1, 1)), None)
    rows = []
    for record in records:
        stages, replicas, chunks = record.layout
        if base is None or record is base or replicas > 1:
            continue
        models = [(r.settings.get("model"), r.settings.get("blocks")) for r in (base, record)]
        if models[0] != models[1]:
            continue
        losses = [r.steps[r.steps.phase == "train"].loss.to_numpy() for r in (base, record)]
        difference = abs(losses[1] / losses[0] - 1)
        cells = [
            f"{losses[0][0]:.5g}",
            f"{losses[1][0]:.5g}",
            f"{difference[0]:.2%}",
            f"{difference.mean():.2%}",
        ]
        rows.append([stages, chunks, *cells])
    head = ["stages", "chunks", "first loss, 1 chunk", "first loss", "difference"]
    return markdown([*head, "difference, mean of run"], rows)


def _published(stages: int, chunks: int, phase: str) -> dict[str, float]:
    row = published_row("model", phase, stages=stages, replicas=1, chunks=chunks)
    assert row is not None
    return row.to_dict()


def corrections(records: Sequence[Record]) -> Iterable[str]:
    """Yield the tables, in Markdown; those of runs only if there are records."""
    yield predict_published()
    if records:
        yield predict_measured(records)
        yield compare_micro_batches(records)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.corrections", description=__doc__)
    parser.add_argument("records", type=Path, nargs="*", help="HDF5 records of runs")
    arguments = parser.parse_args()
    with exit_on_input_error(parser.prog):
        records = [read(path) for path in arguments.records]
    print("\n\n".join(corrections(records)))


if __name__ == "__main__":
    main()
