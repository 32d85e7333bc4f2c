import pytest

from vigmpi.layout import Layout
from vigmpi.runtime.activity import Now
from vigmpi.runtime.beat import Beat, Word
from vigmpi.runtime.judge import Judge, at_fault, blocked_by, judges, standstill_bound

LAYOUT = Layout(stages=2, replicas=2, chunks=2)
PROCESSES = [f"pid {10 + rank} on a" for rank in range(4)]
SILENCE_S, STANDSTILL_S = 5.0, 8.0


def judge_of(rank: int) -> Judge:
    return Judge(rank, LAYOUT, PROCESSES, SILENCE_S, now=0.0)


def beat(rank: int, moves: int, kind: str = "F", word: Word = Word.ALIVE) -> Beat:
    return Beat(word, rank, Now(kind, 1, 3, moves, 0.5))


def live(judge: Judge, seconds: range, silent: set[int], *, moving: bool = True) -> list[str]:
    """Verdicts where all but some ranks give signs of life."""
    verdicts = []
    for second in seconds:
        for rank in set(range(4)) - silent:
            judge.hear(beat(rank, second if moving else 0), float(second))
        verdicts.append(judge.verdict(float(second), STANDSTILL_S))
    return [verdict for verdict in verdicts if verdict]


def test_ranks_that_get_on_are_left_alone() -> None:
    for rank in range(4):
        assert not live(judge_of(rank), range(100), silent=set())


@pytest.mark.parametrize("silent", [1, 2, 3])
def test_a_silent_rank_is_named_with_its_place_and_what_it_did(silent: int) -> None:
    judge = judge_of(0)
    assert not live(judge, range(6), silent={silent})
    judge.hear(beat(silent, 1, "B"), 6.0)
    [message, *_] = live(judge, range(7, 13), silent={silent})
    place = LAYOUT.place(silent)
    at = f"stage {place.stage}, replica {place.replica}; {PROCESSES[silent]}"
    assert message.startswith(f"rank {silent} ({at}), heard 6.0 s ago in backward of micro-batch 1")
    assert "silent for 6.0 s" in message


def test_rank_0_is_judged_by_the_last_rank_alone() -> None:
    assert judges(4) == [0, 3]
    assert judges(1) == [0]
    assert not live(judge_of(1), range(20), silent={0})
    assert live(judge_of(3), range(20), silent={0})[0].startswith("rank 0 ")
    assert not live(judge_of(3), range(20), silent={1})


def test_a_rank_whose_line_ends_has_died_unless_it_said_goodbye() -> None:
    judge = judge_of(0)
    judge.hear(beat(1, 1, word=Word.GOODBYE), 1.0)
    judge.hear(beat(1, 1), 1.0)  # on its other line, and sent before
    judge.lose(1)
    assert judge.verdict(1.0, STANDSTILL_S) is None
    judge.lose(2)
    assert ": died [told by rank 0]" in (judge.verdict(1.0, STANDSTILL_S) or "")


def test_who_tells_of_a_failure_is_given_time_to_end_the_run() -> None:
    judge = judge_of(0)
    judge.hear(beat(1, 1, word=Word.TOLD), 1.0)
    judge.lose(1)
    judge.lose(2)  # ended by rank 1
    assert judge.verdict(2.0, STANDSTILL_S) is None
    assert judge.verdict(12.0, STANDSTILL_S)


def test_the_others_end_the_run_only_where_both_judges_died() -> None:
    judge = judge_of(1)
    judge.lose(0)
    assert judge.verdict(0.0, STANDSTILL_S) is None
    judge.lose(3)
    assert "which watch over the run: died" in (judge.verdict(0.0, STANDSTILL_S) or "")


def test_a_judge_that_overslept_gives_everyone_that_time_again() -> None:
    judge = judge_of(0)
    assert not live(judge, range(3), silent=set())
    assert judge.verdict(100.0, STANDSTILL_S) is None
    assert live(judge, range(101, 110), silent={1})


def test_ranks_that_beat_and_do_not_move_stand_still() -> None:
    [message, *_] = live(judge_of(0), range(20), silent=set(), moving=False)
    assert "no rank has got on for 9.0 s" in message


def test_the_table_has_a_row_for_every_rank() -> None:
    judge = judge_of(0)
    kinds = ["rB", "F", "gradient sum", "gradient sum"]
    for rank, kind in enumerate(kinds):
        judge.hear(beat(rank, 1, kind), 1.0)
    judge.lose(1)
    _, *rows = (judge.verdict(2.0, STANDSTILL_S) or "").splitlines()
    assert [row.split()[:2] for row in rows] == [["rank", str(rank)] for rank in range(4)]
    waits = ["waits for rank 1", "waits for nobody", "waits for rank 0", "waits for rank 1"]
    for row, wait in zip(rows, waits, strict=True):
        assert wait in row
        assert "(mini-batch 3)" in row
        assert "1.5 s" in row
        assert "heard 1.0 s ago" in row


@pytest.mark.parametrize(
    ("kinds", "blamed"),
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
    kinds: list[str], blamed: list[int]
) -> None:
    assert at_fault(LAYOUT, kinds)[0] == blamed


def test_in_a_collective_a_rank_waits_for_those_that_are_elsewhere() -> None:
    kinds = ["gradient sum", "timings", "gradient sum", "B"]
    assert blocked_by(LAYOUT, kinds) == [[], [0, 2, 3], [], []]
    longer = Layout(stages=3, replicas=1, chunks=2)
    assert blocked_by(longer, ["F", "rF", "rF"]) == [[], [0], [1]]  # no collective: a chain


def test_the_bound_of_a_standstill_grows_with_the_mini_batches() -> None:
    assert standstill_bound(None, []) == 3000.0
    assert standstill_bound(8.0, []) == 80.0
    assert standstill_bound(None, [1.0, 2.0]) == 300.0
    assert standstill_bound(None, [40.0, 37.0, 500.0]) == 800.0
    assert standstill_bound(8.0, [40.0]) == 8.0


def test_a_beat_comes_through_as_it_was() -> None:
    sent = Beat(Word.TOLD, 7, Now("gradient sum", -1, 2**31, 2**40, 1.5))
    assert Beat.unpack(sent.pack()) == sent


def test_a_run_that_may_lose_ranks_does_not_end_for_one_that_died() -> None:
    judge = Judge(0, LAYOUT, PROCESSES, SILENCE_S, now=0.0, may_lose=True)
    judge.lose(2)
    assert judge.verdict(0.0, STANDSTILL_S) is None
    assert not live(judge, range(1, 6), silent={2, 3})
    assert judge.stopped(6.0) == [3]
    judge.lose(3)
    assert judge.stopped(6.0) == []
