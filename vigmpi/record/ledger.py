"""Where a step's time went: every rank's share of it in columns that add up to the whole.

GPipe's closed form is the sum of the stages' times for a micro-batch plus (M - 1) times the
slowest stage's, forward and backward each (Huang et al., "GPipe", NeurIPS 2019). Of it, the
slowest stage's own M times are work; the rest no rank can avoid, and is the bubble.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi.record.columns import Column

Seconds = NDArray[np.float64]

LEDGER = (
    Column("forward_s", "s", "measured on the rank"),
    Column("backward_s", "s", "measured on the rank"),
    Column("bubble_s", "s", "closed form of the rank's replica, less the slowest stage's work"),
    Column(
        "imbalance_s",
        "s",
        "what the slowest stage works more than this rank's, and what the slowest replica's "
        "closed form is more than that of this rank's replica",
    ),
    Column(
        "network_s",
        "s",
        "the rest of the waiting: messages under way, and micro-batches of uneven times, which "
        "can bring it below 0",
    ),
    Column("gradient_sum_s", "s", "with the agreement behind it, of the rank that came last"),
    Column("data_s", "s", "of the rank that took longest"),
    Column("statistics_s", "s", "of the replica that came last, where that took longest"),
    Column("optimizer_s", "s", "of the rank that took longest"),
    Column("other_s", "s", "what a rank did between the measured actions"),
)


class Ledger(NamedTuple):
    """Of one mini-batch, or the mean of many.

    Attributes:
        shares: of the step on each rank, [ranks, len(LEDGER)].
        step_s: the step on the slowest rank; each rank's shares add up to it.
        closed_form_s: of the slowest replica.
    """

    shares: Seconds
    step_s: float
    closed_form_s: float


def ledger(timings: Mapping[str, Seconds], replicas: int, micro_batches: int) -> Ledger:
    """Share out a mini-batch.

    All ranks leave a step together, so the wall time of all is that of the slowest, and a rank
    that waits for another's loading or optimizer waits in that column.

    Args:
        timings: the record's columns, [ranks] each.
        micro_batches: of a replica's mini-batch.
    """
    by_replica = {name: values.reshape(replicas, -1) for name, values in timings.items()}
    forward, backward = by_replica["forward_s"], by_replica["backward_s"]
    slowest = forward.max(axis=1) + backward.max(axis=1)
    bubble = ((forward + backward).sum(axis=1) - slowest) / micro_batches
    closed = bubble + slowest
    late = closed.max() - closed
    # All ranks agree after the sum. Who comes to that last waits for none: what it spends, the
    # others' lateness is not in. So for the replicas, which meet again over the statistics.
    joint = (by_replica["gradient_sum_s"] + by_replica["agreement_s"]).min()
    statistics = by_replica["statistics_s"].min(axis=0)
    measured = np.sum([v for name, v in by_replica.items() if name != "step_s"], axis=0)
    known = {
        "forward_s": forward,
        "backward_s": backward,
        "bubble_s": bubble[:, None],
        "imbalance_s": (slowest + late)[:, None] - forward - backward,
        "gradient_sum_s": joint,
        "data_s": by_replica["data_s"].max(),
        "statistics_s": statistics.max(),
        "optimizer_s": by_replica["optimizer_s"].max(),
        "other_s": by_replica["step_s"] - measured,
    }
    shares = {name: np.broadcast_to(v, forward.shape).ravel() for name, v in known.items()}
    step_s = float(timings["step_s"].max())
    shares["network_s"] = step_s - np.sum(list(shares.values()), axis=0)
    columns = np.array([shares[column.name] for column in LEDGER]).T
    return Ledger(columns, step_s, float(closed.max()))


def mean(ledgers: Sequence[Ledger]) -> Ledger:
    shares, step_s, closed_form_s = zip(*ledgers, strict=True)
    return Ledger(np.mean(shares, axis=0), float(np.mean(step_s)), float(np.mean(closed_form_s)))
