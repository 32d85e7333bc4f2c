from collections.abc import Iterable, Iterator

from vigmpi.schedule.action import Action, Kind


def with_messages(work: Iterable[Action], stage: int, stages: int) -> Iterator[Action]:
    """Insert the receive of its input before each action and the send of its output after it."""
    first, last = stage == 0, stage == stages - 1
    around = {
        Kind.FORWARD: (Kind.RECEIVE_FEATURES, first, Kind.SEND_FEATURES, last),
        Kind.BACKWARD: (Kind.RECEIVE_GRADIENTS, last, Kind.SEND_GRADIENTS, first),
    }
    for action in work:
        receive, has_input, send, keeps_output = around[action.kind]
        if not has_input:
            yield Action(receive, action.micro_batch)
        yield action
        if not keeps_output:
            yield Action(send, action.micro_batch)
