"""Deadlock check: a schedule must complete even if MPI buffers no messages."""

from collections import Counter
from collections.abc import Sequence

from vigmpi.schedule.action import Action, Kind

_SENDS = {Kind.SEND_FEATURES: 1, Kind.SEND_GRADIENTS: -1}
_RECEIVES = {Kind.RECEIVE_FEATURES: Kind.SEND_FEATURES, Kind.RECEIVE_GRADIENTS: Kind.SEND_GRADIENTS}


def blocked_stages(
    programs: Sequence[Sequence[Action]], slots: int, steps: int = 2
) -> dict[int, Action]:
    """Execute the stages' actions with unbuffered sends and return where stages deadlock.

    A send completes only once its receive has been posted. A stage posts the receives of the
    first `slots` messages of each kind when a step begins, and another one after each receive.
    Actions are local and deterministic, and no two compete for a message. The order in which the
    stages are tried therefore does not matter: every execution ends in the same state.

    Args:
        programs: actions of each stage in one step, messages included.
        slots: number of receives posted in advance per kind.
        steps: number of repetitions of the programs (consecutive steps may overlap).

    Returns:
        The action at which each blocked stage waits; empty if all stages complete.
    """
    done = [0] * len(programs)
    sent = Counter[tuple[int, Kind]]()  # by sending stage, over all steps
    received = Counter[tuple[int, Kind]]()  # by receiving stage and kind of send
    per_step = [Counter(action.kind for action in program) for program in programs]

    def can_run(stage: int, action: Action) -> bool:
        step = done[stage] // len(programs[stage])
        if shift := _SENDS.get(action.kind):
            peer, kind = stage + shift, action.kind
            peer_has_begun = done[peer] // len(programs[peer]) >= step
            posted = min(received[peer, kind] + slots, per_step[stage][kind] * (step + 1))
            return peer_has_begun and sent[stage, kind] < posted
        if send := _RECEIVES.get(action.kind):
            return sent[stage - _SENDS[send], send] > received[stage, send]
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
                progressed = True
                if action.kind in _SENDS:
                    sent[stage, action.kind] += 1
                elif send := _RECEIVES.get(action.kind):
                    received[stage, send] += 1
    return {
        stage: program[done[stage] % len(program)]
        for stage, program in enumerate(programs)
        if done[stage] < steps * len(program)
    }
