import itertools

import pytest

from vigmpi.phase import Phase
from vigmpi.schedule import SCHEDULES, Action, Kind, Schedule, with_messages
from vigmpi.schedule.deadlock import blocked_stages

SIZES = list(itertools.product(range(1, 9), range(1, 9)))


def programs(schedule: Schedule, stages: int, chunks: int) -> list[list[Action]]:
    return [
        list(with_messages(schedule(stage, stages, chunks), stage, stages))
        for stage in range(stages)
    ]


def text(actions: list[Action]) -> str:
    return " ".join(map(str, actions))


def test_gpipe_actions_are_as_written_here() -> None:
    first, middle, last = programs(SCHEDULES[Phase.TRAIN], stages=3, chunks=2)
    assert text(first) == "F0 sF0 F1 sF1 rB0 B0 rB1 B1"
    assert text(middle) == "rF0 F0 sF0 rF1 F1 sF1 rB0 B0 sB0 rB1 B1 sB1"
    assert text(last) == "rF0 F0 rF1 F1 B0 sB0 B1 sB1"
    assert text(programs(SCHEDULES[Phase.TEST], stages=2, chunks=2)[1]) == "rF0 F0 rF1 F1"


@pytest.mark.parametrize("phase", list(Phase))
def test_every_stage_computes_each_micro_batch_once_in_ascending_order(phase: Phase) -> None:
    for stages, chunks in SIZES:
        for stage in range(stages):
            work = list(SCHEDULES[phase](stage, stages, chunks))
            kinds = [Kind.FORWARD, Kind.BACKWARD] if phase is Phase.TRAIN else [Kind.FORWARD]
            for kind in kinds:
                done = [a.micro_batch for a in work if a.kind is kind]
                assert done == list(range(chunks))
            assert len(work) == len(kinds) * chunks
            for i in range(chunks if phase is Phase.TRAIN else 0):
                forward, backward = Action(Kind.FORWARD, i), Action(Kind.BACKWARD, i)
                assert work.index(forward) < work.index(backward)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_send_has_a_matching_receive(phase: Phase) -> None:
    pairs = {Kind.SEND_FEATURES: (1, "rF"), Kind.SEND_GRADIENTS: (-1, "rB")}
    for stages, chunks in SIZES:
        actions = programs(SCHEDULES[phase], stages, chunks)
        for stage, program in enumerate(actions):
            for send, (shift, receive) in pairs.items():
                sent = [a.micro_batch for a in program if a.kind is send]
                peer = actions[stage + shift] if 0 <= stage + shift < stages else []
                assert sent == [a.micro_batch for a in peer if a.kind == receive]


@pytest.mark.parametrize("phase", list(Phase))
def test_no_layout_deadlocks_without_buffering(phase: Phase) -> None:
    for stages, chunks in SIZES:
        assert blocked_stages(programs(SCHEDULES[phase], stages, chunks), slots=chunks) == {}


def test_a_deadlock_is_detected() -> None:
    """In 1F1B without receives posted in advance, both neighbours send and neither receives."""
    first = [Action(Kind(k), i) for k, i in [("F", 0), ("sF", 0), ("F", 1), ("sF", 1)]]
    first += [Action(Kind(k), i) for k, i in [("rB", 0), ("B", 0), ("rB", 1), ("B", 1)]]
    last = [
        Action(Kind(k), i) for i in range(2) for k, i in [("rF", i), ("F", i), ("B", i), ("sB", i)]
    ]
    assert blocked_stages([first, last], slots=0) == {
        0: Action(Kind.SEND_FEATURES, 0),
        1: Action(Kind.RECEIVE_FEATURES, 0),
    }
    assert blocked_stages([first, last], slots=1) == {}


def test_a_receive_without_a_send_is_detected() -> None:
    receive = Action(Kind.RECEIVE_GRADIENTS, 0)
    assert blocked_stages([[receive], [Action(Kind.FORWARD, 0)]], slots=1) == {0: receive}
