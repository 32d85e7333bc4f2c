"""A proof that a schedule cannot deadlock, whatever MPI buffers."""

from collections import Counter
from collections.abc import Sequence

from vigmpi.schedule.action import Action, Kind

_SENDS = {Kind.SEND_FEATURES: 1, Kind.SEND_GRADIENTS: -1}
_RECEIVES = {Kind.RECEIVE_FEATURES: Kind.SEND_FEATURES, Kind.RECEIVE_GRADIENTS: Kind.SEND_GRADIENTS}


def blocked_stages(
    programs: Sequence[Sequence[Action]], slots: int, steps: int = 2
) -> dict[int, Action]:
    """Run the stages' actions under zero-buffer sends until nothing moves.

    A send ends once its receive has been posted, and no sooner. A stage posts receives for the
    first `slots` messages of each kind when a step begins, and one more for each that it takes.
    Actions are local and deterministic, and none competes for another's message, so the order
    in which stages are tried does not matter: what this one run reaches, every run reaches.

    Args:
        programs: every stage's actions in one step, messages included.
        slots: receives posted ahead per kind.
        steps: how often the programs are repeated (a later step may meet an earlier one).

    Returns:
        For every stage that cannot go on, the action where it waits; empty if all ended.
    """
    at = [0] * len(programs)
    sent = Counter[tuple[int, Kind]]()  # by sending stage, over all steps
    taken = Counter[tuple[int, Kind]]()  # by receiving stage and kind of send
    per_step = [Counter(action.kind for action in program) for program in programs]

    def can_run(stage: int, action: Action) -> bool:
        step = at[stage] // len(programs[stage])
        if shift := _SENDS.get(action.kind):
            peer, number = stage + shift, sent[stage, action.kind]
            started = at[peer] // len(programs[peer]) >= step
            ahead = min(taken[peer, action.kind] + slots, per_step[stage][action.kind] * (step + 1))
            return started and number < ahead
        if send := _RECEIVES.get(action.kind):
            return sent[stage - _SENDS[send], send] > taken[stage, send]
        return True

    moved = True
    while moved:
        moved = False
        for stage, program in enumerate(programs):
            while at[stage] < steps * len(program):
                action = program[at[stage] % len(program)]
                if not can_run(stage, action):
                    break
                at[stage] += 1
                moved = True
                if action.kind in _SENDS:
                    sent[stage, action.kind] += 1
                elif send := _RECEIVES.get(action.kind):
                    taken[stage, send] += 1
    return {
        stage: program[at[stage] % len(program)]
        for stage, program in enumerate(programs)
        if at[stage] < steps * len(program)
    }
