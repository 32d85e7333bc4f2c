"""Table of everything that a rank can be doing: actions of a schedule and other work of a run."""

from collections.abc import Callable
from typing import NamedTuple

from vigmpi.layout.layout import Layout
from vigmpi.schedule.action import Kind


class KindDescription(NamedTuple):
    """Description of one kind of work.

    Attributes:
        label: its name in messages.
        waits_for: maps a layout and a rank to the ranks without which the work cannot end on that
            rank; empty for a computation.
        collective: the work ends once that rank and all of these have begun it.
        column: column of the record's timings that its time counts in; empty outside of a step.
        colour: its colour in figures; empty if figures leave it out.
    """

    label: str
    waits_for: Callable[[Layout, int], list[int]] = lambda _layout, _rank: []
    collective: bool = False
    column: str = ""
    colour: str = ""


# A heartbeat encodes a kind by its position here.
KINDS: dict[str, KindDescription] = {
    "start": KindDescription("start-up"),
    Kind.FORWARD: KindDescription("forward", column="forward_s", colour="#4477aa"),
    Kind.BACKWARD: KindDescription("backward", column="backward_s", colour="#ee6677"),
    Kind.RECEIVE_FEATURES: KindDescription(
        "receive of features", Layout.previous_stage, column="receive_wait_s"
    ),
    Kind.RECEIVE_GRADIENTS: KindDescription(
        "receive of gradients", Layout.next_stage, column="receive_wait_s"
    ),
    Kind.SEND_FEATURES: KindDescription(
        "send of features", Layout.next_stage, column="send_wait_s"
    ),
    Kind.SEND_GRADIENTS: KindDescription(
        "send of gradients", Layout.previous_stage, column="send_wait_s"
    ),
    Kind.REDUCE: KindDescription(
        "gradient sum", Layout.other_replicas, True, column="gradient_sum_s", colour="#228833"
    ),
    "parts": KindDescription("exchange with other parts", Layout.other_parts, True),
    "step": KindDescription("step", column="step_s"),
    "data": KindDescription("data loading", column="data_s", colour="#bbbbbb"),
    "statistics": KindDescription(
        "gather of statistics", Layout.other_replicas, True, column="statistics_s"
    ),
    "optimizer": KindDescription("optimizer", column="optimizer_s", colour="#ccbb44"),
    "last sends": KindDescription("completion of sends", Layout.neighbours, column="send_wait_s"),
    "timings": KindDescription("gather of timings", Layout.all_others, True),
    "agreement": KindDescription(
        "agreement on finite values", Layout.all_others, True, column="agreement_s"
    ),
    "record": KindDescription("record"),
    "checkpoint": KindDescription("checkpoint", Layout.all_others, True),
    "end": KindDescription("end of the run", Layout.all_others, True),
}
