import pytest

from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import CurrentAction
from vigmpi.monitor.failure_detector import (
    FailureDetector,
    blocked_by,
    find_culprits,
    monitors,
    stall_bound,
)
from vigmpi.monitor.heartbeat import Heartbeat, Status

LAYOUT = Layout(stages=2, replicas=2, chunks=2)
PROCESSES = [f"pid {10 + rank} on a" for rank in range(4)]
HEARTBEAT_TIMEOUT_S, STALL_TIMEOUT_S = 5.0, 8.0


def judge_of(rank: int) -> FailureDetector:
    return FailureDetector(rank, LAYOUT, PROCESSES, HEARTBEAT_TIMEOUT_S, now=0.0)


def heartbeat(rank: int, moves: int, kind: str = "F", status: Status = Status.ALIVE) -> Heartbeat:
    return Heartbeat(status, rank, CurrentAction(kind, 1, 3, moves, 0.5))


def live(
    detector: FailureDetector, seconds: range, silent: set[int], *, moving: bool = True
) -> list[str]:
    """Verdicts where all but some ranks give signs of life."""
    verdicts = []
    for second in seconds:
        for rank in set(range(4)) - silent:
            detector.hear(heartbeat(rank, second if moving else 0), float(second))
        verdicts.append(detector.diagnose(float(second), STALL_TIMEOUT_S))
    return [diagnose for diagnose in verdicts if diagnose]


def test_ranks_that_get_on_are_left_alone() -> None:
    for rank in range(4):
        assert not live(judge_of(rank), range(100), silent=set())


@pytest.mark.parametrize("silent", [1, 2, 3])
def test_a_silent_rank_is_named_with_its_place_and_what_it_did(silent: int) -> None:
    detector = judge_of(0)
    assert not live(detector, range(6), silent={silent})
    detector.hear(heartbeat(silent, 1, "B"), 6.0)
    [message, *_] = live(detector, range(7, 13), silent={silent})
    place = LAYOUT.place(silent)
    at = f"stage {place.stage}, replica {place.replica}; {PROCESSES[silent]}"
    assert message.startswith(f"rank {silent} ({at}), heard 6.0 s ago in backward of micro-batch 1")
    assert "silent for 6.0 s" in message


def test_rank_0_is_judged_by_the_last_rank_alone() -> None:
    assert monitors(4) == [0, 3]
    assert monitors(1) == [0]
    assert not live(judge_of(1), range(20), silent={0})
    assert live(judge_of(3), range(20), silent={0})[0].startswith("rank 0 ")
    assert not live(judge_of(3), range(20), silent={1})


def test_a_rank_whose_line_ends_has_died_unless_it_said_goodbye() -> None:
    detector = judge_of(0)
    detector.hear(heartbeat(1, 1, status=Status.SHUTDOWN), 1.0)
    detector.hear(heartbeat(1, 1), 1.0)  # on its other connection, and sent before
    detector.lose(1)
    assert detector.diagnose(1.0, STALL_TIMEOUT_S) is None
    detector.lose(2)
    assert ": died [told by rank 0]" in (detector.diagnose(1.0, STALL_TIMEOUT_S) or "")


def test_who_tells_of_a_failure_is_given_time_to_end_the_run() -> None:
    detector = judge_of(0)
    detector.hear(heartbeat(1, 1, status=Status.REPORTED), 1.0)
    detector.lose(1)
    detector.lose(2)  # ended by rank 1
    assert detector.diagnose(2.0, STALL_TIMEOUT_S) is None
    assert detector.diagnose(12.0, STALL_TIMEOUT_S)


def test_the_others_end_the_run_only_where_both_judges_died() -> None:
    detector = judge_of(1)
    detector.lose(0)
    assert detector.diagnose(0.0, STALL_TIMEOUT_S) is None
    detector.lose(3)
    assert "which watch over the run: died" in (detector.diagnose(0.0, STALL_TIMEOUT_S) or "")


def test_a_judge_that_overslept_gives_everyone_that_time_again() -> None:
    detector = judge_of(0)
    assert not live(detector, range(3), silent=set())
    assert detector.diagnose(100.0, STALL_TIMEOUT_S) is None
    assert live(detector, range(101, 110), silent={1})


def test_ranks_that_beat_and_do_not_move_stand_still() -> None:
    [message, *_] = live(judge_of(0), range(20), silent=set(), moving=False)
    assert "no rank has got on for 9.0 s" in message


def test_the_table_has_a_row_for_every_rank() -> None:
    detector = judge_of(0)
    kinds = ["rB", "F", "gradient sum", "gradient sum"]
    for rank, kind in enumerate(kinds):
        detector.hear(heartbeat(rank, 1, kind), 1.0)
    detector.lose(1)
    _, *rows = (detector.diagnose(2.0, STALL_TIMEOUT_S) or "").splitlines()
    assert [row.split()[:2] for row in rows] == [["rank", str(rank)] for rank in range(4)]
    waits = ["waits for rank 1", "waits for nobody", "waits for rank 0", "waits for rank 1"]
    for row, wait in zip(rows, waits, strict=True):
        assert wait in row
        assert "(mini-batch 3)" in row
        assert "1.5 s" in row
        assert "heard 1.0 s ago" in row


@pytest.mark.parametrize(
    ("kinds", "culprits"),
    [
        (["rB", "F", "gradient sum", "gradient sum"], [1]),  # it computes for ever
        (["rB", "rF", "gradient sum", "gradient sum"], [0, 1]),  # each waits for the other
        (["rB", "timings", "timings", "timings"], [0, 1]),
        (["timings"] * 4, [0, 1, 2, 3]),
        (["record", "timings", "timings", "timings"], [0]),
        (["F", "F", "timings", "timings"], [0, 1]),
    ],
)
def test_a_standstill_is_blamed_on_who_computes_or_on_a_circle(
    kinds: list[str], culprits: list[int]
) -> None:
    assert find_culprits(LAYOUT, kinds)[0] == culprits


def test_in_a_collective_a_rank_waits_for_those_that_are_elsewhere() -> None:
    kinds = ["gradient sum", "timings", "gradient sum", "B"]
    assert blocked_by(LAYOUT, kinds) == [[], [0, 2, 3], [], []]
    longer = Layout(stages=3, replicas=1, chunks=2)
    assert blocked_by(longer, ["F", "rF", "rF"]) == [[], [0], [1]]  # no collective: a chain


def test_the_bound_of_a_standstill_grows_with_the_mini_batches() -> None:
    assert stall_bound(None, []) == 3000.0
    assert stall_bound(8.0, []) == 80.0
    assert stall_bound(None, [1.0, 2.0]) == 300.0
    assert stall_bound(None, [40.0, 37.0, 500.0]) == 800.0
    assert stall_bound(8.0, [40.0]) == 8.0


def test_a_beat_comes_through_as_it_was() -> None:
    sent = Heartbeat(Status.REPORTED, 7, CurrentAction("gradient sum", -1, 2**31, 2**40, 1.5))
    assert Heartbeat.unpack(sent.pack()) == sent


def test_a_run_that_may_lose_ranks_does_not_end_for_one_that_died() -> None:
    detector = FailureDetector(
        0, LAYOUT, PROCESSES, HEARTBEAT_TIMEOUT_S, now=0.0, tolerate_loss=True
    )
    detector.lose(2)
    assert detector.diagnose(0.0, STALL_TIMEOUT_S) is None
    assert not live(detector, range(1, 6), silent={2, 3})
    assert detector.stopped(6.0) == [3]
    detector.lose(3)
    assert detector.stopped(6.0) == []
