from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import Activity, describe_rank
from vigmpi.pipeline.stopwatch import Stopwatch
from vigmpi.record.timings import TIMINGS
from vigmpi.schedule.action import Kind
from vigmpi.schedule.kinds import KINDS

LAYOUT = Layout(stages=3, replicas=2, chunks=2)


def test_every_action_is_described_and_timed() -> None:
    assert not set(Kind) - KINDS.keys()
    columns = {kind.column for kind in KINDS.values() if kind.column}
    assert columns == {name for name, timing in TIMINGS.items() if timing.measure is None}
    assert all(KINDS[kind].column for kind in Kind)


def test_a_failed_action_remains_current() -> None:
    activity = Activity(0)
    stopwatch = Stopwatch(activity)
    with stopwatch("step"):
        with stopwatch("F", 3):
            assert str(activity.current) == "forward of micro-batch 3 (mini-batch 1)"
        assert str(activity.current) == "step (mini-batch 1)"
    assert str(activity.current) == "start-up (mini-batch 1)"
    try:
        with stopwatch("step"), stopwatch("B", 0):
            raise RuntimeError
    except RuntimeError:
        assert str(activity.current) == "backward of micro-batch 0 (mini-batch 2)"


def test_every_begin_and_end_counts_as_progress() -> None:
    activity = Activity(0)
    counts = [activity.current.transitions]
    with activity("timings"):
        counts.append(activity.current.transitions)
    counts.append(activity.current.transitions)
    assert len(set(counts)) == 3


def test_durations_of_mini_batches_are_kept() -> None:
    activity = Activity(0)
    for _ in range(3):
        with activity("step"), activity("data"):
            pass
    assert len(activity.step_s) == 3
    assert all(0 <= seconds < 1 for seconds in activity.step_s)


def test_a_rank_waits_for_neighbours_replicas_or_all_ranks() -> None:
    def waits_for(kind: str, rank: int) -> list[int]:
        return KINDS[kind].waits_for(LAYOUT, rank)

    assert [waits_for("rF", rank) for rank in (0, 1, 5)] == [[], [0], [4]]
    assert [waits_for("rB", rank) for rank in (0, 2, 4)] == [[1], [], [5]]
    assert waits_for("sF", 4) == waits_for("rB", 4)
    assert waits_for("sB", 4) == waits_for("rF", 4)
    assert waits_for("last sends", 1) == [0, 2]
    assert waits_for("R", 4) == [1]
    assert waits_for("timings", 2) == [0, 1, 3, 4, 5]


def test_a_rank_is_described_with_its_place_once_the_layout_is_known() -> None:
    assert describe_rank(4, None, "pid 7 on a") == "rank 4 (pid 7 on a)"
    assert describe_rank(4, LAYOUT, "pid 7 on a") == "rank 4 (stage 1, replica 1; pid 7 on a)"
