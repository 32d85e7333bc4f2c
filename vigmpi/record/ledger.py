"""The ledger: the time of a step on every rank, attributed to columns that add up to the step.

GPipe's closed form is the sum of the stages' times for one micro-batch plus (M - 1) times that
of the slowest stage, for forward and backward each (Huang et al., "GPipe", NeurIPS 2019). M times
the slowest stage's time is work; the remainder is the bubble, which no rank can avoid.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi.record.columns import Column

Seconds = NDArray[np.float64]

LEDGER = (
    Column("forward_s", "s", "forward passes on the rank"),
    Column("backward_s", "s", "backward passes on the rank"),
    Column("bubble_s", "s", "closed form of the rank's replica minus its slowest stage's work"),
    Column(
        "imbalance_s",
        "s",
        "work of the slowest stage minus that of the rank's stage, plus closed form of the "
        "slowest replica minus that of the rank's replica",
    ),
    Column("network_s", "s", "remaining wait: messages, uneven micro-batches; can be negative"),
    Column("gradient_sum_s", "s", "gradient all-reduce and agreement, minimum over the ranks"),
    Column("data_s", "s", "wait for data, maximum over the ranks"),
    Column("statistics_s", "s", "merging of batch-norm statistics on the slowest stage"),
    Column("optimizer_s", "s", "optimizer step, maximum over the ranks"),
    Column("other_s", "s", "time on the rank between the measured actions"),
)


class Ledger(NamedTuple):
    """The ledger of one mini-batch, or the mean of several.

    Attributes:
        shares: seconds of each rank in each column of `LEDGER`, [ranks, len(LEDGER)].
        step_s: seconds of the step on the slowest rank; each row of `shares` adds up to it.
        closed_form_s: GPipe's closed form for the slowest replica, in seconds.
    """

    shares: Seconds
    step_s: float
    closed_form_s: float


def ledger(timings: Mapping[str, Seconds], replicas: int, micro_batches: int) -> Ledger:
    """Attribute the time of a mini-batch to the columns of `LEDGER`.

    All ranks finish a step together, so the slowest rank's wall time is that of all. A rank that
    waits for another rank's data or optimizer spends this time in the same column.

    Args:
        timings: the columns `TIMINGS` of the record in seconds, [ranks] each.
        micro_batches: number of micro-batches in a replica's mini-batch.
    """
    by_replica = {name: values.reshape(replicas, -1) for name, values in timings.items()}
    forward, backward = by_replica["forward_s"], by_replica["backward_s"]
    slowest = forward.max(axis=1) + backward.max(axis=1)
    bubble = ((forward + backward).sum(axis=1) - slowest) / micro_batches
    closed_form = bubble + slowest
    lag = closed_form.max() - closed_form
    # The agreement synchronizes all ranks after the gradient sum. The last rank to arrive waits
    # for no other, so its time (the minimum) excludes lateness. The same holds for the replicas,
    # which synchronize once more over the statistics.
    reduction = (by_replica["gradient_sum_s"] + by_replica["agreement_s"]).min()
    statistics = by_replica["statistics_s"].min(axis=0)
    measured = np.sum([v for name, v in by_replica.items() if name != "step_s"], axis=0)
    columns = {
        "forward_s": forward,
        "backward_s": backward,
        "bubble_s": bubble[:, None],
        "imbalance_s": (slowest + lag)[:, None] - forward - backward,
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
    return Ledger(shares, step_s, float(closed_form.max()))


def mean(ledgers: Sequence[Ledger]) -> Ledger:
    shares, step_s, closed_form_s = zip(*ledgers, strict=True)
    return Ledger(np.mean(shares, axis=0), float(np.mean(step_s)), float(np.mean(closed_form_s)))
