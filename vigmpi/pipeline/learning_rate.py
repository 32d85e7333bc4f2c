"""Learning-rate schedules: factors as functions of the completed fraction of training."""

import math
from collections.abc import Callable

# Decaying schedules fall from 1 at the start to 0 at the end of training.
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,  # noqa: ARG005
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}


def lr_factor(schedule: str, done: float, warm_up: float) -> float:
    """Return the factor of the base learning rate.

    Args:
        schedule: key of `LR_SCHEDULES` (cosine: Loshchilov and Hutter, "SGDR", ICLR 2017).
        done: completed fraction of training, in [0, 1].
        warm_up: fraction of training in which the factor rises linearly from 0 (Goyal et al.,
            "Accurate, Large Minibatch SGD", 2017).
    """
    ramp = min(1.0, done / warm_up) if warm_up else 1.0
    return ramp * LR_SCHEDULES[schedule](done)
