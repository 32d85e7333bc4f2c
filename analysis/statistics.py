"""Statistics of measured times: speed-ups with intervals, and bimodal samples."""

import numpy as np
from numpy.typing import ArrayLike

_DRAWS = 10_000


def speed_up(base: ArrayLike, other: ArrayLike, seed: int = 0) -> tuple[float, float, float]:
    """Return the speed-up of `other` over `base` and the limits of its 95 % confidence interval.

    The speed-up is the ratio of the mean times; the interval is a percentile bootstrap (Efron,
    Tibshirani, "An Introduction to the Bootstrap", 1993).
    """
    random = np.random.default_rng(seed)
    a, b = np.asarray(base, float), np.asarray(other, float)
    means = [random.choice(x, (_DRAWS, len(x))).mean(axis=1) for x in (a, b)]
    low, high = np.percentile(means[0] / means[1], [2.5, 97.5])
    return float(a.mean() / b.mean()), float(low), float(high)


def median_ratio(first: ArrayLike, second: ArrayLike, seed: int = 0) -> tuple[float, float, float]:
    """Return the median ratio of paired times and the limits of its 95 % confidence interval.

    The interval is a percentile bootstrap over the pairs, so that a drift of the machine that
    affects both times of a pair cancels.
    """
    ratios = np.asarray(first, float) / np.asarray(second, float)
    draws = np.random.default_rng(seed).choice(ratios, (_DRAWS, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def two_modes(sample: ArrayLike) -> tuple[float, float] | None:
    """Return the means of a sample's two modes, or None if it has only one.

    The sample is cut where the variance within the two parts is smallest (Otsu, "A threshold
    selection method from gray-level histograms", 1979). It has two modes if the means of the parts
    are more than six of their pooled standard deviations apart and both parts have at least two
    values.
    """
    values = np.sort(np.asarray(sample, float))
    cuts = range(2, len(values) - 1)
    if not cuts:
        return None
    spread = [values[:i].var() * i + values[i:].var() * (len(values) - i) for i in cuts]
    low, high = np.split(values, [cuts[int(np.argmin(spread))]])
    within = np.sqrt(min(spread) / len(values))
    return (low.mean(), high.mean()) if high.mean() - low.mean() > 6 * within else None
