import pytest

from vigmpi.layout.layout import Layout
from vigmpi.monitor.activity import CurrentAction
from vigmpi.monitor.failure_detector import (
    FailureDetector,
    find_culprits,
    monitors,
    stall_bound,
    wait_for_graph,
)
from vigmpi.monitor.heartbeat import Heartbeat, Status

LAYOUT = Layout(stages=2, replicas=2, chunks=2)
PROCESSES = [f"pid {10 + rank} on a" for rank in range(4)]
HEARTBEAT_TIMEOUT_S, STALL_TIMEOUT_S = 5.0, 8.0


def detector_of(rank: int) -> FailureDetector:
    return FailureDetector(rank, LAYOUT, PROCESSES, HEARTBEAT_TIMEOUT_S, time=0.0)


def heartbeat(
    rank: int, transitions: int, kind: str = "F", status: Status = Status.ALIVE
) -> Heartbeat:
    return Heartbeat(status, rank, CurrentAction(kind, 1, 3, transitions, 0.5))


def live(
    detector: FailureDetector, seconds: range, silent: set[int], *, progress: bool = True
) -> list[str]:
    """Return the diagnoses while all ranks but the silent ones send heartbeats."""
    diagnoses = []
    for second in seconds:
        for rank in set(range(4)) - silent:
            detector.receive(heartbeat(rank, second if progress else 0), float(second))
        diagnoses.append(detector.diagnose(float(second), STALL_TIMEOUT_S))
    return [diagnosis for diagnosis in diagnoses if diagnosis]


def test_a_run_that_makes_progress_is_not_aborted() -> None:
    for rank in range(4):
        assert not live(detector_of(rank), range(100), silent=set())


@pytest.mark.parametrize("silent", [1, 2, 3])
def test_a_silent_rank_is_reported_with_its_place_and_action(silent: int) -> None:
    detector = detector_of(0)
    assert not live(detector, range(6), silent={silent})
    detector.receive(heartbeat(silent, 1, "B"), 6.0)
    [message, *_] = live(detector, range(7, 13), silent={silent})
    place = LAYOUT.place(silent)
    at = f"stage {place.stage}, replica {place.replica}; {PROCESSES[silent]}"
    assert message.startswith(
        f"rank {silent} ({at}) is stopped or holding the GIL in backward of micro-batch 1 "
        f"(mini-batch 3): no heartbeat for 6.0 s (reported by rank 0)\n"
    )


def test_rank_0_is_watched_by_the_last_rank_alone() -> None:
    assert monitors(4) == [0, 3]
    assert monitors(1) == [0]
    assert not live(detector_of(1), range(20), silent={0})
    assert live(detector_of(3), range(20), silent={0})[0].startswith("rank 0 ")
    assert not live(detector_of(3), range(20), silent={1})


def test_a_closed_connection_means_death_unless_the_rank_has_shut_down() -> None:
    detector = detector_of(0)
    detector.receive(heartbeat(1, 1, status=Status.SHUTDOWN), 1.0)
    detector.receive(heartbeat(1, 1), 1.0)  # sent earlier on its other connection
    detector.disconnect(1)
    assert detector.diagnose(1.0, STALL_TIMEOUT_S) is None
    detector.disconnect(2)
    assert (detector.diagnose(3.0, STALL_TIMEOUT_S) or "").startswith(
        "rank 2 (stage 0, replica 1; pid 12 on a) died in start-up; last heartbeat 3.0 s ago "
        "(reported by rank 0)\n"
    )


def test_a_rank_that_has_reported_a_failure_has_time_to_end_the_run() -> None:
    detector = detector_of(0)
    detector.receive(heartbeat(1, 1, status=Status.REPORTED), 1.0)
    detector.disconnect(1)
    detector.disconnect(2)  # ended by rank 1
    assert detector.diagnose(2.0, STALL_TIMEOUT_S) is None
    assert detector.diagnose(12.0, STALL_TIMEOUT_S)


def test_other_ranks_end_the_run_only_if_both_monitors_died() -> None:
    detector = detector_of(1)
    detector.disconnect(0)
    assert detector.diagnose(0.0, STALL_TIMEOUT_S) is None
    detector.disconnect(3)
    assert (detector.diagnose(0.0, STALL_TIMEOUT_S) or "") == (
        "rank 0 (stage 0, replica 0; pid 10 on a) and rank 3 (stage 1, replica 1; pid 13 on a) "
        "died; they monitored the run (reported by rank 1)\n"
    )


def test_a_monitor_that_was_suspended_grants_all_ranks_a_grace_period() -> None:
    detector = detector_of(0)
    assert not live(detector, range(3), silent=set())
    assert detector.diagnose(100.0, STALL_TIMEOUT_S) is None
    assert live(detector, range(101, 110), silent={1})


def test_heartbeats_without_progress_are_a_stall() -> None:
    [message, *_] = live(detector_of(0), range(20), silent=set(), progress=False)
    assert " have made no progress for 9.0 s in forward of micro-batch 1 " in message


def test_the_table_has_a_row_for_every_rank() -> None:
    detector = detector_of(0)
    kinds = ["rB", "F", "R", "R"]
    for rank, kind in enumerate(kinds):
        detector.receive(heartbeat(rank, 1, kind), 1.0)
    detector.disconnect(1)
    _, *rows = (detector.diagnose(2.0, STALL_TIMEOUT_S) or "").splitlines()
    assert [row.split()[:2] for row in rows] == [["rank", str(rank)] for rank in range(4)]
    blockers = ["rank 1", "nobody", "rank 0", "rank 1"]
    for row, blocker in zip(rows, blockers, strict=True):
        assert f"  waiting for {blocker} " in row
        assert "(mini-batch 3)" in row
        assert "1.5 s" in row
        assert row.endswith("  last heartbeat 1.0 s ago")


@pytest.mark.parametrize(
    ("kinds", "culprits", "explanation"),
    [
        (["rB", "F", "R", "R"], [1], "all other ranks are waiting for it"),
        (["rB", "rF", "R", "R"], [0, 1], "they form a circular wait"),
        (["rB", "timings", "timings", "timings"], [0, 1], "they form a circular wait"),
        (["timings"] * 4, [0, 1, 2, 3], "the collective has not completed"),
        (["record", "timings", "timings", "timings"], [0], "all other ranks are waiting for it"),
        (["F", "F", "timings", "timings"], [0, 1], "all other ranks are waiting for them"),
        (["F"] * 4, [0, 1, 2, 3], "no rank is waiting for another"),
    ],
)
def test_culprits_of_a_stall_are_computing_ranks_or_a_cycle_or_a_collective(
    kinds: list[str], culprits: list[int], explanation: str
) -> None:
    assert find_culprits(LAYOUT, kinds) == (culprits, explanation)


def test_a_stall_is_reported_with_its_culprit() -> None:
    detector = detector_of(0)
    for second in range(10):
        for rank, kind in enumerate(["rB", "F", "R", "R"]):
            detector.receive(heartbeat(rank, 1, kind), float(second))
        message = detector.diagnose(float(second), STALL_TIMEOUT_S)
    assert (message or "").startswith(
        "rank 1 (stage 1, replica 0; pid 11 on a) has made no progress for 9.0 s in forward of "
        "micro-batch 1 (mini-batch 3); all other ranks are waiting for it (reported by rank 0)\n"
    )


def test_in_a_collective_a_rank_waits_for_those_that_have_not_entered_it() -> None:
    kinds = ["R", "timings", "R", "B"]
    assert wait_for_graph(LAYOUT, kinds) == [[], [0, 2, 3], [], []]
    longer = Layout(stages=3, replicas=1, chunks=2)
    assert wait_for_graph(longer, ["F", "rF", "rF"]) == [[], [0], [1]]  # a chain


def test_the_stall_bound_grows_with_the_duration_of_mini_batches() -> None:
    assert stall_bound(None, []) == 3000.0
    assert stall_bound(8.0, []) == 80.0
    assert stall_bound(None, [1.0, 2.0]) == 300.0
    assert stall_bound(None, [40.0, 37.0, 500.0]) == 800.0
    assert stall_bound(8.0, [40.0]) == 8.0


def test_packing_and_unpacking_preserve_a_heartbeat() -> None:
    sent = Heartbeat(Status.REPORTED, 7, CurrentAction("R", -1, 2**31, 2**40, 1.5))
    assert Heartbeat.unpack(sent.pack()) == sent


def test_a_run_that_tolerates_losses_survives_a_dead_rank() -> None:
    detector = FailureDetector(
        0, LAYOUT, PROCESSES, HEARTBEAT_TIMEOUT_S, time=0.0, tolerate_loss=True
    )
    detector.disconnect(2)
    assert detector.diagnose(0.0, STALL_TIMEOUT_S) is None
    assert not live(detector, range(1, 6), silent={2, 3})
    assert detector.stopped_ranks(6.0) == [3]
    detector.disconnect(3)
    assert detector.stopped_ranks(6.0) == []
