import numpy as np

from vigmpi.layout.layout import Layout
from vigmpi.record.ledger import LEDGER, Ledger, MeanLedger, least_seconds, ledger
from vigmpi.record.timings import TIMINGS
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.program import dependencies, make_programs

NAMES = [column.name for column in LEDGER]


def timings(**columns: list[float]) -> dict[str, np.ndarray]:
    """Return the timings of two replicas of two stages; 0 for columns that are not given."""
    return {name: np.array(columns.get(name, [0.0] * 4), float) for name in TIMINGS}


def gpipe_ledger(seconds: dict[str, np.ndarray], replicas: int, chunks: int) -> Ledger:
    layout = Layout(stages=2, replicas=replicas, chunks=chunks)
    programs = make_programs(SCHEDULES["gpipe"], layout.stages, chunks)
    return ledger(seconds, layout.shape, dependencies(programs))


def test_the_least_time_of_gpipe_is_its_closed_form() -> None:
    random = np.random.default_rng()
    for stages, chunks in [(1, 1), (2, 1), (3, 5), (8, 4)]:
        forward, backward = random.random((2, 3, stages))
        work = dependencies(make_programs(SCHEDULES["gpipe"], stages, chunks))
        closed_form = sum(t.sum(axis=1) + (chunks - 1) * t.max(axis=1) for t in (forward, backward))
        np.testing.assert_allclose(least_seconds(work, forward, backward), closed_form)


def test_a_pipeline_at_its_bound_consists_of_work_bubble_and_imbalance() -> None:
    # 4 micro-batches: stage 0 takes 1 s forward and 3 backward each, stage 1 takes 2 and 3.
    forward, backward = [4.0, 8.0] * 2, [12.0, 12.0] * 2
    step = (1 + 2 + 3 * 2) + (3 + 3 + 3 * 3)
    seconds = timings(forward_s=forward, backward_s=backward, step_s=[step] * 4)
    result = gpipe_ledger(seconds, 2, 4)
    assert result.least_s == step
    columns = dict(zip(NAMES, result.shares.T, strict=True))
    assert columns["bubble_s"].tolist() == [1 + 3] * 4
    assert columns["imbalance_s"].tolist() == [4, 0] * 2
    assert columns["other_s"].tolist() == [step - 16, step - 20] * 2
    assert abs(columns["network_s"] + columns["other_s"]).max() < 1e-12


def test_waiting_for_another_rank_counts_in_the_column_that_it_waits_for() -> None:
    data, optimizer = [0.5, 0, 0, 0], [0, 0, 0, 0.25]
    sums = {"gradient_sum_s": [0, 0.1, 2.0, 0.1], "agreement_s": [2.1, 3.0, 0, 3.1]}
    columns = timings(data_s=data, optimizer_s=optimizer, step_s=[5.0] * 4, **sums)
    result = gpipe_ledger(columns, 2, 1)
    shares = dict(zip(NAMES, result.shares.T, strict=True))
    assert shares["data_s"].tolist() == [0.5] * 4
    assert shares["optimizer_s"].tolist() == [0.25] * 4
    assert shares["gradient_sum_s"].tolist() == [2.0] * 4  # all ranks wait for rank 2


def test_a_slower_replica_is_an_imbalance() -> None:
    result = gpipe_ledger(timings(forward_s=[1.0, 1.0, 3.0, 3.0], step_s=[6.0] * 4), 2, 1)
    shares = dict(zip(NAMES, result.shares.T, strict=True))
    assert shares["imbalance_s"].tolist() == [4.0, 4.0, 0, 0]


def test_the_columns_of_every_rank_add_up_to_the_step() -> None:
    random = np.random.default_rng()
    ledgers = [gpipe_ledger({name: random.random(6) for name in TIMINGS}, 3, 5) for _ in range(4)]
    mean = MeanLedger()
    for each in ledgers:
        mean.add(each)
    for each in (*ledgers, mean.mean):
        np.testing.assert_allclose(each.shares.sum(axis=1), each.step_s)


def test_exchanges_and_uneven_parts_have_columns_of_their_own() -> None:
    """Two stages of two parts each: a rank that waits for the larger part exchanges longer."""
    layout = Layout(stages=2, replicas=1, chunks=1, parts=2)
    work = dependencies(make_programs(SCHEDULES["gpipe"], 2, 1))
    seconds = timings(
        forward_s=[2.0, 1.0, 3.0, 3.0], parts_s=[0.5, 1.5, 0.25, 0.25], step_s=[6.0] * 4
    )
    result = ledger(seconds, layout.shape, work)
    columns = dict(zip(NAMES, result.shares.T, strict=True))
    assert result.least_s == 5.0
    assert columns["parts_s"].tolist() == [0.5, 1.5, 0.25, 0.25]
    assert columns["imbalance_s"].tolist() == [1.0, 2.0, 0.0, 0.0]
    np.testing.assert_allclose(result.shares.sum(axis=1), 6.0)
