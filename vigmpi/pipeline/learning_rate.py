"""How the learning rate changes over a run: functions of the share of it that is done."""

import math
from collections.abc import Callable

# 1 at the start, on their way to 0 at the end of the run.
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,  # noqa: ARG005
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}


def lr_factor(schedule: str, done: float, warm_up: float) -> float:
    """What the learning rate is multiplied with.

    Args:
        schedule: a key of `LR_SCHEDULES` (cosine: Loshchilov and Hutter, "SGDR", ICLR 2017).
        done: share of the training that is behind, from 0 up to 1.
        warm_up: share of it in which the factor rises from 0 (Goyal et al., "Accurate, Large
            Minibatch SGD", 2017).
    """
    rising = min(1.0, done / warm_up) if warm_up else 1.0
    return rising * LR_SCHEDULES[schedule](done)
