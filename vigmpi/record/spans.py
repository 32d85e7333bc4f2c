from collections import defaultdict
from typing import NamedTuple

from vigmpi.schedule import Kind

# What a rank spends a step on, and the column of the record that it counts in.
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
    """What was done from start to end, in seconds of this host's clock.

    Attributes:
        kind: a key of `COLUMNS`.
        micro_batch: -1 where it concerns the whole mini-batch.
    """

    kind: str
    micro_batch: int
    start: float
    end: float


def seconds(spans: list[Span]) -> dict[str, float]:
    """Sums by column; 0 for what was not done."""
    totals = defaultdict[str, float](float)
    for span in spans:
        totals[COLUMNS[span.kind]] += span.end - span.start
    return {column: totals[column] for column in COLUMNS.values()}
