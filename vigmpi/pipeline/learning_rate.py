"""Learning-rate schedules: factors as functions of the completed fraction of training."""

import math
from collections.abc import Callable

ONE_CYCLE = "one-cycle"
_FIRST, _LAST = 1 / 25, 1 / 250_000  # factors at the ends of one cycle, torch's defaults
_BETA1, _BETA1_ENDS, _BETA1_PEAK = 0.9, 0.95, 0.85  # likewise, of Adam and of one cycle


def _after_warm_up(decay: Callable[[float], float]) -> Callable[[float, float], float]:
    def factor(done: float, warm_up: float) -> float:
        return (min(1.0, done / warm_up) if warm_up else 1.0) * decay(done)

    return factor


def _one_cycle(first: float, peak: float, last: float) -> Callable[[float, float], float]:
    def value(done: float, warm_up: float) -> float:
        if done < warm_up:
            return _half_cosine(first, peak, done / warm_up)
        return _half_cosine(peak, last, (done - warm_up) / (1.0 - warm_up))

    return value


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * part)) / 2


# Factors as functions of the completed fraction and the fraction of warm-up. Decaying schedules
# fall from 1 at the start to 0 at the end of training, apart from their warm-up.
LR_SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": _after_warm_up(lambda done: 1.0),  # noqa: ARG005
    "linear": _after_warm_up(lambda done: 1.0 - done),
    "cosine": _after_warm_up(lambda done: (1.0 + math.cos(math.pi * done)) / 2),
    ONE_CYCLE: _one_cycle(_FIRST, 1.0, _LAST),
}
_BETA1_CYCLE = _one_cycle(_BETA1_ENDS, _BETA1_PEAK, _BETA1_ENDS)


def lr_factor(schedule: str, done: float, warm_up: float) -> float:
    """Return the factor of the base learning rate.

    Args:
        schedule: key of `LR_SCHEDULES` (cosine: Loshchilov and Hutter, "SGDR", ICLR 2017;
            one-cycle: Smith and Topin, "Super-Convergence", 2019, along cosines as in torch).
        done: completed fraction of training, in [0, 1].
        warm_up: fraction of training in which the factor rises, linearly from 0 (Goyal et al.,
            "Accurate, Large Minibatch SGD", 2017) or, in one cycle, from 1/25; then below 1.
    """
    return LR_SCHEDULES[schedule](done, warm_up)


def beta1(schedule: str, done: float, warm_up: float) -> float:
    """Return beta1 of Adam, which a one-cycle schedule cycles inversely to the learning rate."""
    return _BETA1_CYCLE(done, warm_up) if schedule == ONE_CYCLE else _BETA1
