"""The ledger: the time of a step on every rank, attributed to columns that add up to the step.

A schedule's least time is that of its longest chain of dependent forwards and backwards, if every
action takes its measured time and messages take none. For GPipe it is the sum of the stages' times
for one micro-batch plus (M - 1) times that of the slowest stage, for forward and backward each
(Huang et al., "GPipe", NeurIPS 2019). The part of it in which the slowest stage does not work is
the bubble, which no rank can avoid.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi.record.columns import Column
from vigmpi.schedule.action import Action, Kind

Seconds = NDArray[np.float64]

LEDGER = (
    Column("forward_s", "s", "forward passes on the rank"),
    Column("backward_s", "s", "backward passes on the rank"),
    Column("bubble_s", "s", "least time of the rank's replica minus its slowest stage's work"),
    Column(
        "imbalance_s",
        "s",
        "work of the slowest stage minus that of the rank, plus least time of the slowest replica "
        "minus that of the rank's replica",
    ),
    Column("parts_s", "s", "exchange with other parts of the images on the rank"),
    Column("network_s", "s", "remaining wait: messages, uneven micro-batches; can be negative"),
    Column("gradient_sum_s", "s", "gradient all-reduce and agreement, minimum over the ranks"),
    Column("data_s", "s", "wait for data, maximum over the ranks"),
    Column("statistics_s", "s", "merging of batch-norm statistics on the slowest stage"),
    Column("optimizer_s", "s", "optimizer step, maximum over the ranks"),
    Column("other_s", "s", "time on the rank between the measured actions"),
)


# The time of other kinds of work stays in `other_s`.
_ATTRIBUTED = (
    *("forward_s", "backward_s", "parts_s", "receive_wait_s", "send_wait_s", "gradient_sum_s"),
    *("agreement_s", "data_s", "statistics_s", "optimizer_s"),
)


class Ledger(NamedTuple):
    """The ledger of one mini-batch, or the mean of several.

    Attributes:
        shares: seconds of each rank in each column of `LEDGER`, [ranks, len(LEDGER)].
        step_s: seconds of the step on the slowest rank; each row of `shares` adds up to it.
        least_s: least time of the schedule on the slowest replica, in seconds.
    """

    shares: Seconds
    step_s: float
    least_s: float


def least_seconds(
    work: Sequence[tuple[Action, Sequence[int]]], forward: Seconds, backward: Seconds
) -> Seconds:
    """Return the least time of a schedule on each replica, [replicas].

    Args:
        work: result of `vigmpi.schedule.program.dependencies`.
        forward, backward: seconds of one action on each stage, [replicas, stages].
    """
    ends: list[Seconds] = []
    for action, sources in work:
        seconds = forward if action.kind is Kind.FORWARD else backward
        begins = np.max([ends[source] for source in sources], axis=0) if sources else 0.0
        ends.append(begins + seconds[:, action.stage])
    return np.max(ends, axis=0)


def ledger(
    timings: Mapping[str, Seconds],
    shape: tuple[int, int, int],
    work: Sequence[tuple[Action, Sequence[int]]],
) -> Ledger:
    """Attribute the time of a mini-batch to the columns of `LEDGER`.

    All ranks finish a step together, so the slowest rank's wall time is that of all. A rank that
    waits for another rank's data or optimizer spends this time in the same column.

    Args:
        timings: the timing columns of the record in seconds, [ranks] each.
        shape: numbers of replicas, stages and parts.
        work: result of `vigmpi.schedule.program.dependencies` for the step's programs.
    """
    by_replica = {name: values.reshape(shape) for name, values in timings.items()}
    micro_batches = 1 + max(action.micro_batch for action, _ in work)
    forward, backward = by_replica["forward_s"], by_replica["backward_s"]
    of_stages = forward.max(axis=2), backward.max(axis=2)
    slowest = np.add(*of_stages).max(axis=1)
    least = least_seconds(work, *(seconds / micro_batches for seconds in of_stages))
    bubble = least - slowest
    lag = least.max() - least
    # The agreement synchronizes all ranks after the gradient sum. The last rank to arrive waits
    # for no other, so its time (the minimum) excludes lateness. The same holds for the replicas,
    # which synchronize once more over the statistics.
    reduction = (by_replica["gradient_sum_s"] + by_replica["agreement_s"]).min()
    statistics = by_replica["statistics_s"].min(axis=0)
    measured = np.sum([by_replica[name] for name in _ATTRIBUTED], axis=0)
    columns = {
        "forward_s": forward,
        "backward_s": backward,
        "bubble_s": bubble[:, None, None],
        "imbalance_s": (slowest + lag)[:, None, None] - forward - backward,
        "parts_s": by_replica["parts_s"],
        "gradient_sum_s": reduction,
        "data_s": by_replica["data_s"].max(),
        "statistics_s": statistics.max(),
        "optimizer_s": by_replica["optimizer_s"].max(),
        "other_s": by_replica["step_s"] - measured,
    }
    by_rank = {name: np.broadcast_to(v, forward.shape).ravel() for name, v in columns.items()}
    step_s = float(timings["step_s"].max())
    by_rank["network_s"] = step_s - np.sum(list(by_rank.values()), axis=0)
    shares = np.array([by_rank[column.name] for column in LEDGER]).T
    return Ledger(shares, step_s, float(least.max()))


class MeanLedger:
    """Mean of many ledgers, of which only the sum is kept.

    Attributes:
        number: number of ledgers added.
    """

    def __init__(self) -> None:
        self.number = 0
        self._sum = Ledger(np.zeros(()), 0.0, 0.0)

    def add(self, other: Ledger) -> None:
        shares, step_s, least_s = self._sum
        self._sum = Ledger(shares + other.shares, step_s + other.step_s, least_s + other.least_s)
        self.number += 1

    @property
    def mean(self) -> Ledger:
        """Mean of at least one ledger."""
        shares, step_s, least_s = self._sum
        return Ledger(shares / self.number, step_s / self.number, least_s / self.number)
