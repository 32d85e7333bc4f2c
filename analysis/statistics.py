import numpy as np
from numpy.typing import ArrayLike

_DRAWS = 10_000


def speed_up(base: ArrayLike, other: ArrayLike, seed: int = 0) -> tuple[float, float, float]:
    """How much faster `other` is than `base` on average, and a 95 % interval.

    Percentile bootstrap of the ratio of means (Efron, Tibshirani, "An Introduction to the
    Bootstrap", 1993).
    """
    random = np.random.default_rng(seed)
    a, b = np.asarray(base, float), np.asarray(other, float)
    means = [random.choice(x, (_DRAWS, len(x))).mean(axis=1) for x in (a, b)]
    low, high = np.percentile(means[0] / means[1], [2.5, 97.5])
    return float(a.mean() / b.mean()), float(low), float(high)


def two_modes(sample: ArrayLike) -> tuple[float, float] | None:
    """The means of a sample's two modes, if it has two.

    It is cut where the spread within both parts is least (Otsu, "A threshold selection method
    from gray-level histograms", 1979). Two modes are told where the parts lie more than six of
    their own standard deviations apart and the smaller has two values at least.
    """
    values = np.sort(np.asarray(sample, float))
    cuts = range(2, len(values) - 1)
    if not cuts:
        return None
    spread = [values[:i].var() * i + values[i:].var() * (len(values) - i) for i in cuts]
    low, high = np.split(values, [cuts[int(np.argmin(spread))]])
    within = np.sqrt(min(spread) / len(values))
    return (low.mean(), high.mean()) if high.mean() - low.mean() > 6 * within else None
