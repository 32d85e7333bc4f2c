from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import ACTIONS, Activity, describe_rank
from vigmpi.pipeline.stopwatch import Stopwatch
from vigmpi.record.spans import COLUMNS

LAYOUT = Layout(stages=3, replicas=2, chunks=2)


def test_everything_that_is_timed_can_be_told() -> None:
    assert not COLUMNS.keys() - ACTIONS.keys()


def test_an_action_is_over_when_it_ends_and_not_when_it_fails() -> None:
    activity = Activity(0)
    stopwatch = Stopwatch(activity)
    with stopwatch("step"):
        with stopwatch("F", 3):
            assert str(activity.now) == "forward of micro-batch 3 (mini-batch 1)"
        assert str(activity.now) == "mini-batch (mini-batch 1)"
    assert str(activity.now) == "start-to_monitors (mini-batch 1)"
    try:
        with stopwatch("step"), stopwatch("B", 0):
            raise RuntimeError
    except RuntimeError:
        assert str(activity.now) == "backward of micro-batch 0 (mini-batch 2)"


def test_every_begin_and_end_moves() -> None:
    activity = Activity(0)
    seen = [activity.now.moves]
    with activity("timings"):
        seen.append(activity.now.moves)
    seen.append(activity.now.moves)
    assert len(set(seen)) == 3


def test_the_seconds_of_mini_batches_are_kept() -> None:
    activity = Activity(0)
    for _ in range(3):
        with activity("step"), activity("data"):
            pass
    assert len(activity.step_s) == 3
    assert all(0 <= seconds < 1 for seconds in activity.step_s)


def test_a_rank_waits_for_neighbours_copies_or_all() -> None:
    def waits(kind: str, rank: int) -> list[int]:
        return ACTIONS[kind].waits_for(LAYOUT, rank)

    assert [waits("rF", rank) for rank in (0, 1, 5)] == [[], [0], [4]]
    assert [waits("rB", rank) for rank in (0, 2, 4)] == [[1], [], [5]]
    assert waits("sF", 4) == waits("rB", 4)
    assert waits("sB", 4) == waits("rF", 4)
    assert waits("last sends", 1) == [0, 2]
    assert waits("gradient sum", 4) == [1]
    assert waits("timings", 2) == [0, 1, 3, 4, 5]


def test_a_rank_is_named_with_its_place_once_the_layout_is_known() -> None:
    assert describe_rank(4, None, "pid 7 on a") == "rank 4 (pid 7 on a)"
    assert describe_rank(4, LAYOUT, "pid 7 on a") == "rank 4 (stage 1, replica 1; pid 7 on a)"
