import numpy as np

from vigmpi.record.columns import TIMINGS
from vigmpi.record.ledger import LEDGER, ledger, mean

NAMES = [column.name for column in LEDGER]


def timings(**columns: list[float]) -> dict[str, np.ndarray]:
    """Return the timings of two replicas of two stages; 0 for columns that are not given."""
    return {c.name: np.array(columns.get(c.name, [0.0] * 4), float) for c in TIMINGS}


def test_a_pipeline_at_its_bound_consists_of_work_bubble_and_imbalance() -> None:
    # 4 micro-batches: stage 0 takes 1 s forward and 3 backward each, stage 1 takes 2 and 3.
    forward, backward = [4.0, 8.0] * 2, [12.0, 12.0] * 2
    step = (1 + 2 + 3 * 2) + (3 + 3 + 3 * 3)
    result = ledger(timings(forward_s=forward, backward_s=backward, step_s=[step] * 4), 2, 4)
    assert result.closed_form_s == step
    columns = dict(zip(NAMES, result.shares.T, strict=True))
    assert columns["bubble_s"].tolist() == [1 + 3] * 4
    assert columns["imbalance_s"].tolist() == [4, 0] * 2
    assert columns["other_s"].tolist() == [step - 16, step - 20] * 2
    assert abs(columns["network_s"] + columns["other_s"]).max() < 1e-12


def test_waiting_for_another_rank_counts_in_the_column_that_it_waits_for() -> None:
    data, optimizer = [0.5, 0, 0, 0], [0, 0, 0, 0.25]
    sums = {"gradient_sum_s": [0, 0.1, 2.0, 0.1], "agreement_s": [2.1, 3.0, 0, 3.1]}
    columns = timings(data_s=data, optimizer_s=optimizer, step_s=[5.0] * 4, **sums)
    result = ledger(columns, replicas=2, micro_batches=1)
    shares = dict(zip(NAMES, result.shares.T, strict=True))
    assert shares["data_s"].tolist() == [0.5] * 4
    assert shares["optimizer_s"].tolist() == [0.25] * 4
    assert shares["gradient_sum_s"].tolist() == [2.0] * 4  # all ranks wait for rank 2


def test_a_slower_replica_is_an_imbalance() -> None:
    result = ledger(timings(forward_s=[1.0, 1.0, 3.0, 3.0], step_s=[6.0] * 4), 2, 1)
    shares = dict(zip(NAMES, result.shares.T, strict=True))
    assert shares["imbalance_s"].tolist() == [4.0, 4.0, 0, 0]


def test_the_columns_of_every_rank_add_up_to_the_step() -> None:
    random = np.random.default_rng()
    ledgers = [
        ledger({c.name: random.random(6) for c in TIMINGS}, replicas=3, micro_batches=5)
        for _ in range(4)
    ]
    for each in (*ledgers, mean(ledgers)):
        np.testing.assert_allclose(each.shares.sum(axis=1), each.step_s)
