"""Complete programs of the stages, and the quantities that follow from them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from vigmpi.schedule import Schedule
from vigmpi.schedule.action import Action, Kind

Program = tuple[Action, ...]  # all actions of one stage in one step


def make_programs(schedule: Schedule, stages: int, chunks: int) -> list[Program]:
    """Return the program of every stage: the schedule's work, its messages and the reduction.

    Raises:
        ValueError: if a stage does not take the micro-batches in ascending order, once forward
            and once backward.
    """
    programs = []
    for stage in range(stages):
        work = list(schedule(stage, stages, chunks))
        for kind in (Kind.FORWARD, Kind.BACKWARD):
            if [a.micro_batch for a in work if a.kind is kind] != list(range(chunks)):
                raise ValueError(f"stage {stage} does not run each {kind} once, in ascending order")
        programs.append(tuple(with_reduction(with_messages(work, stages), stage)))
    return programs


def make_forward_programs(schedule: Schedule, stages: int, chunks: int) -> list[Program]:
    """Return the program of every stage without gradients, such as for an evaluation."""
    return [
        tuple(with_messages(schedule(stage, stages, chunks), stages)) for stage in range(stages)
    ]


def with_messages(work: Iterable[Action], stages: int) -> Iterator[Action]:
    """Insert the receive of its input before each action and the send of its output after it."""
    for action in work:
        first, last = action.stage == 0, action.stage == stages - 1
        receive, has_input, send, keeps_output = {
            Kind.FORWARD: (Kind.RECEIVE_FEATURES, first, Kind.SEND_FEATURES, last),
            Kind.BACKWARD: (Kind.RECEIVE_GRADIENTS, last, Kind.SEND_GRADIENTS, first),
        }[action.kind]
        if not has_input:
            yield Action(action.stage, receive, action.micro_batch)
        yield action
        if not keeps_output:
            yield Action(action.stage, send, action.micro_batch)


def with_reduction(program: Iterable[Action], stage: int) -> Iterator[Action]:
    """Append the sum of the stage's gradients over the replicas."""
    yield from program
    yield Action(stage, Kind.REDUCE)


def peak(program: Iterable[Action], begin: Kind, end: Kind) -> int:
    """Return the largest number of micro-batches between these two actions at any time."""
    current = largest = 0
    for action in program:
        current += (action.kind is begin) - (action.kind is end)
        largest = max(largest, current)
    return largest


def peak_in_flight(program: Iterable[Action]) -> int:
    """Return the largest number of micro-batches whose tapes a stage holds at the same time."""
    return peak(program, Kind.FORWARD, Kind.BACKWARD)


def message_slots(upstream: Iterable[Action]) -> int:
    """Return how many messages of a kind can be under way across the boundary behind a stage.

    With this many buffers in each direction, every receive is posted before its message is sent:
    the stage sends a further micro-batch only after the gradient of an earlier one has come back,
    and by then the buffers of that micro-batch are free on both sides.

    Args:
        upstream: program of the stage in front of the boundary.
    """
    return peak(upstream, Kind.SEND_FEATURES, Kind.RECEIVE_GRADIENTS)


def num_actions(programs: Iterable[Program]) -> int:
    """Return the number of actions of the stage that has most."""
    return max(map(len, programs))


def dependencies(programs: Sequence[Program]) -> list[tuple[Action, list[int]]]:
    """Return all forwards and backwards in an order in which they can run.

    Each comes with the indices of its predecessors in the result: the preceding work of its stage
    and the work that makes its input.
    """
    work = [[a for a in p if a.kind in (Kind.FORWARD, Kind.BACKWARD)] for p in programs]
    order: list[tuple[Action, list[int]]] = []
    index: dict[Action, int] = {}
    done = Counter[int]()
    while len(order) < sum(map(len, work)):
        before = len(order)
        for stage, actions in enumerate(work):
            while done[stage] < len(actions):
                action = actions[done[stage]]
                sources = _sources(action, len(programs))
                if not all(source in index for source in sources):
                    break
                if done[stage]:
                    sources = [actions[done[stage] - 1], *sources]
                index[action] = len(order)
                order.append((action, [index[source] for source in sources]))
                done[stage] += 1
        if len(order) == before:
            raise ValueError("the schedule cannot complete")
    return order


def _sources(action: Action, stages: int) -> list[Action]:
    """Return the action of a neighbouring stage, if any, that makes the input of an action."""
    stage, kind, i = action.stage, action.kind, action.micro_batch
    if kind is Kind.FORWARD:
        return [Action(stage - 1, kind, i)] if stage > 0 else []
    return [Action(stage + 1, kind, i)] if stage < stages - 1 else []
