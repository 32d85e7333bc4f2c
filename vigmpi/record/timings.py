"""Timing columns of the record, computed from the spans of a step."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vigmpi.record.columns import Column
from vigmpi.schedule.kinds import KINDS


class Span(NamedTuple):
    """Piece of work on one rank, with its start and end in seconds of the host's clock.

    Attributes:
        kind: a key of `KINDS` that has a timing column.
        micro_batch: number of the micro-batch; -1 for the whole mini-batch.
        parts_s: seconds of exchanges with other parts of the images within it.
    """

    kind: str
    micro_batch: int
    start: float
    end: float
    parts_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Timing(NamedTuple):
    """A timing column.

    Attributes:
        description: its meaning, for the record.
        measure: function from the spans of a step to seconds; None for the total of all spans
            whose kind names this column, without exchanges with other parts except in a step.
    """

    description: str
    measure: Callable[[Sequence[Span]], float] | None = None


TIMINGS: dict[str, Timing] = {
    "step_s": Timing("wall time of the mini-batch on the rank"),
    "data_s": Timing("wait for the rank's images and labels, which are read one step ahead"),
    "forward_s": Timing(
        "forward passes, including the loss on the last stage, without exchanges with other parts"
    ),
    "backward_s": Timing("backward passes, without exchanges with other parts"),
    "parts_s": Timing(
        "exchanges with other parts of the images: halos, moments and gradients",
        lambda spans: sum(span.parts_s for span in spans if span.kind != "step"),
    ),
    "receive_wait_s": Timing("wait for features and gradients from neighbouring stages"),
    "send_wait_s": Timing("posting of sends to neighbouring stages, and their completion"),
    "gradient_sum_s": Timing("wait for the gradient sum after the last backward pass"),
    "agreement_s": Timing(
        "check on all ranks that the loss and all gradients are finite; clipping"
    ),
    "statistics_s": Timing("merging of batch-norm statistics over micro-batches and replicas"),
    "optimizer_s": Timing("optimizer step and moving averages"),
}


def timing_columns() -> list[Column]:
    """Return the columns of the record's group `timings`."""
    return [Column(name, "s", timing.description) for name, timing in TIMINGS.items()]


def timed_kinds() -> list[str]:
    """Return the kinds of work that a step consists of; a trace numbers them in this order."""
    return [str(kind) for kind, description in KINDS.items() if description.column]


def seconds(spans: Sequence[Span]) -> list[float]:
    """Return the seconds of each timing column."""
    totals = dict.fromkeys(TIMINGS, 0.0)
    for span in spans:
        exchanges_s = 0.0 if span.kind == "step" else span.parts_s
        totals[KINDS[span.kind].column] += span.seconds - exchanges_s
    return [
        timing.measure(spans) if timing.measure else totals[name]
        for name, timing in TIMINGS.items()
    ]
