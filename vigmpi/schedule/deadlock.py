"""Deadlock check: a schedule must complete even if MPI buffers no messages."""

from collections import Counter
from collections.abc import Sequence

from vigmpi.schedule.action import Action, Kind
from vigmpi.schedule.program import Program, message_slots

_SENDS = {Kind.SEND_FEATURES: 1, Kind.SEND_GRADIENTS: -1}
_RECEIVES = {Kind.RECEIVE_FEATURES: Kind.SEND_FEATURES, Kind.RECEIVE_GRADIENTS: Kind.SEND_GRADIENTS}


def blocked_stages(
    programs: Sequence[Program], slots: Sequence[int] | None = None, steps: int = 2
) -> dict[int, Action]:
    """Execute the stages' actions with unbuffered sends and return where stages deadlock.

    A send completes only once its receive has been posted. A stage posts as many receives as it
    has buffers when a step begins, and another one when a micro-batch's buffers become free: after
    its backward, or after its forward if the program has no backwards. Actions are local and
    deterministic, and no two compete for a message. The order in which the stages are tried
    therefore does not matter: every execution ends in the same state.

    Args:
        programs: actions of each stage in one step, messages included.
        slots: number of buffers in each direction across the boundary behind each stage; those
            of `message_slots` by default.
        steps: number of repetitions of the programs (consecutive steps may overlap).

    Returns:
        The action at which each blocked stage waits; empty if all stages complete.
    """
    buffers = [message_slots(program) for program in programs] if slots is None else slots
    done = [0] * len(programs)
    finished = Counter[tuple[int, Kind]]()  # actions of a kind on a stage, over all steps
    per_step = [Counter(action.kind for action in program) for program in programs]

    def can_run(stage: int, action: Action) -> bool:
        if shift := _SENDS.get(action.kind):
            peer, step = stage + shift, done[stage] // len(programs[stage])
            if done[peer] // len(programs[peer]) < step:
                return False
            release = Kind.BACKWARD if per_step[peer][Kind.BACKWARD] else Kind.FORWARD
            messages = per_step[stage][action.kind]
            posted = finished[peer, release] - step * messages + buffers[min(stage, peer)]
            return finished[stage, action.kind] < step * messages + min(messages, posted)
        if send := _RECEIVES.get(action.kind):
            return finished[stage - _SENDS[send], send] > finished[stage, action.kind]
        return True

    progressed = True
    while progressed:
        progressed = False
        for stage, program in enumerate(programs):
            while done[stage] < steps * len(program):
                action = program[done[stage] % len(program)]
                if not can_run(stage, action):
                    break
                done[stage] += 1
                finished[stage, action.kind] += 1
                progressed = True
    return {
        stage: program[done[stage] % len(program)]
        for stage, program in enumerate(programs)
        if done[stage] < steps * len(program)
    }
