import itertools
from collections.abc import Iterator

import pytest

from tests.two_in_flight import two_in_flight
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.action import Action, Kind
from vigmpi.schedule.deadlock import blocked_stages
from vigmpi.schedule.gpipe import forward_only
from vigmpi.schedule.program import (
    Program,
    dependencies,
    make_forward_programs,
    make_programs,
    message_slots,
    num_actions,
    peak_in_flight,
)

SIZES = list(itertools.product(range(1, 9), range(1, 9)))
NAMES = [*SCHEDULES, "forward only"]


def programs(name: str, stages: int, chunks: int) -> list[Program]:
    if name in SCHEDULES:
        return make_programs(SCHEDULES[name], stages, chunks)
    return make_forward_programs(forward_only, stages, chunks)


def text(program: Program) -> str:
    return " ".join(map(str, program))


def test_gpipe_actions_are_as_written_here() -> None:
    first, middle, last = programs("gpipe", stages=3, chunks=2)
    assert text(first) == "0F0 0sF0 0F1 0sF1 0rB0 0B0 0rB1 0B1 0R"
    assert text(middle) == "1rF0 1F0 1sF0 1rF1 1F1 1sF1 1rB0 1B0 1sB0 1rB1 1B1 1sB1 1R"
    assert text(last) == "2rF0 2F0 2rF1 2F1 2B0 2sB0 2B1 2sB1 2R"
    assert text(programs("forward only", stages=2, chunks=2)[1]) == "1rF0 1F0 1rF1 1F1"


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_computes_each_micro_batch_once_in_ascending_order(name: str) -> None:
    kinds = [Kind.FORWARD, Kind.BACKWARD] if name in SCHEDULES else [Kind.FORWARD]
    for stages, chunks in SIZES:
        for stage, program in enumerate(programs(name, stages, chunks)):
            assert {action.stage for action in program} <= {stage}
            for kind in kinds:
                done = [a.micro_batch for a in program if a.kind is kind]
                assert done == list(range(chunks))
            for i in range(chunks if name in SCHEDULES else 0):
                forward, backward = (Action(stage, kind, i) for kind in kinds)
                assert program.index(forward) < program.index(backward)


@pytest.mark.parametrize("name", NAMES)
def test_every_send_has_a_matching_receive(name: str) -> None:
    pairs = {Kind.SEND_FEATURES: (1, "rF"), Kind.SEND_GRADIENTS: (-1, "rB")}
    for stages, chunks in SIZES:
        actions = programs(name, stages, chunks)
        for stage, program in enumerate(actions):
            for send, (shift, receive) in pairs.items():
                sent = [a.micro_batch for a in program if a.kind is send]
                peer = actions[stage + shift] if 0 <= stage + shift < stages else ()
                assert sent == [a.micro_batch for a in peer if a.kind == receive]


@pytest.mark.parametrize("name", NAMES)
def test_no_layout_deadlocks_without_buffering(name: str) -> None:
    for stages, chunks in SIZES:
        assert blocked_stages(programs(name, stages, chunks)) == {}


def test_an_evaluation_completes_with_the_buffers_of_any_training_schedule() -> None:
    for stages, chunks in SIZES:
        assert blocked_stages(programs("forward only", stages, chunks), slots=[1] * stages) == {}


def test_gpipe_holds_all_micro_batches_and_an_evaluation_none() -> None:
    for stages, chunks in SIZES:
        for stage, program in enumerate(programs("gpipe", stages, chunks)):
            assert peak_in_flight(program) == chunks
            assert message_slots(program) == (chunks if stage < stages - 1 else 0)


def test_an_interleaved_schedule_holds_fewer_micro_batches_and_needs_fewer_buffers() -> None:
    for stages, chunks in SIZES:
        interleaved = make_programs(two_in_flight, stages, chunks)
        assert blocked_stages(interleaved) == {}
        for stage, program in enumerate(interleaved):
            last = stage == stages - 1
            assert peak_in_flight(program) == min(1 if last else 2, chunks)
            assert message_slots(program) == (0 if last else min(2, chunks))


def test_the_longest_program_gives_the_number_of_spans() -> None:
    assert num_actions(programs("gpipe", 1, 4)) == 8 + 1
    assert num_actions(programs("gpipe", 2, 4)) == 16 + 1
    assert num_actions(programs("gpipe", 3, 4)) == 24 + 1


def test_work_follows_its_stages_work_and_its_input() -> None:
    work = dependencies(make_programs(two_in_flight, 2, 2))
    names = [str(action) for action, _ in work]
    assert sorted(names) == sorted(["0F0", "0F1", "0B0", "0B1", "1F0", "1F1", "1B0", "1B1"])
    before = {names[i]: {names[s] for s in sources} for i, (_, sources) in enumerate(work)}
    assert before["0F0"] == set()
    assert before["1F0"] == {"0F0"}
    assert before["0B0"] == {"0F1", "1B0"}
    assert before["1F1"] == {"1B0", "0F1"}
    assert all(source < i for i, (_, sources) in enumerate(work) for source in sources)


def test_a_schedule_that_cannot_complete_is_refused() -> None:
    def backward_first(stage: int, stages: int, chunks: int) -> Iterator[Action]:  # noqa: ARG001
        yield Action(stage, Kind.BACKWARD if stage == 0 else Kind.FORWARD, 0)
        yield Action(stage, Kind.FORWARD if stage == 0 else Kind.BACKWARD, 0)

    with pytest.raises(ValueError, match="cannot complete"):
        dependencies(make_programs(backward_first, 2, 1))


def test_a_schedule_in_another_order_is_refused() -> None:
    def descending(stage: int, stages: int, chunks: int) -> Iterator[Action]:  # noqa: ARG001
        for i in range(chunks):
            yield Action(stage, Kind.FORWARD, i)
        for i in reversed(range(chunks)):
            yield Action(stage, Kind.BACKWARD, i)

    with pytest.raises(ValueError, match="stage 0 does not run each B once, in ascending order"):
        make_programs(descending, 2, 3)


def test_a_deadlock_is_detected() -> None:
    """In 1F1B without receives posted in advance, both neighbours send and neither receives."""

    def program(stage: int, kinds: str) -> Program:
        return tuple(Action(stage, Kind(kind[:-1]), int(kind[-1])) for kind in kinds.split())

    first = program(0, "F0 sF0 F1 sF1 rB0 B0 rB1 B1")
    last = program(1, "rF0 F0 B0 sB0 rF1 F1 B1 sB1")
    assert blocked_stages([first, last], slots=[0, 0]) == {
        0: Action(0, Kind.SEND_FEATURES, 0),
        1: Action(1, Kind.RECEIVE_FEATURES, 0),
    }
    assert blocked_stages([first, last]) == {}


def test_a_receive_without_a_send_is_detected() -> None:
    receive = Action(0, Kind.RECEIVE_GRADIENTS, 0)
    assert blocked_stages([(receive,), (Action(1, Kind.FORWARD, 0),)]) == {0: receive}
