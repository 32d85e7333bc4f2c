"""Spans of time within a step, and the columns of the record that they count in."""

from collections import defaultdict
from typing import NamedTuple

from vigmpi.schedule import Kind

# Kind of span -> column of `TIMINGS`.
COLUMNS: dict[str, str] = {
    Kind.FORWARD: "forward_s",
    Kind.BACKWARD: "backward_s",
    Kind.RECEIVE_FEATURES: "receive_wait_s",
    Kind.RECEIVE_GRADIENTS: "receive_wait_s",
    Kind.SEND_FEATURES: "send_wait_s",
    Kind.SEND_GRADIENTS: "send_wait_s",
    "data": "data_s",
    "gradient sum": "gradient_sum_s",
    "agreement": "agreement_s",
    "statistics": "statistics_s",
    "optimizer": "optimizer_s",
    "last sends": "send_wait_s",
    "step": "step_s",
}


class Span(NamedTuple):
    """An action on one rank, with its start and end in seconds of the host's clock.

    Attributes:
        kind: a key of `COLUMNS`.
        micro_batch: number of the micro-batch; -1 for the whole mini-batch.
    """

    kind: str
    micro_batch: int
    start: float
    end: float


def seconds(spans: list[Span]) -> dict[str, float]:
    """Return the total seconds of each column; 0 for a column without spans."""
    totals = defaultdict[str, float](float)
    for span in spans:
        totals[COLUMNS[span.kind]] += span.end - span.start
    return {column: totals[column] for column in COLUMNS.values()}
