"""Labels as probabilities: label smoothing, and mixup of pairs of training images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vigmpi.datasets.dataset import Labels

Probabilities = NDArray[np.float32]  # [images, classes]

_MIXUP = 1  # stream of random numbers


@dataclass(frozen=True)
class SoftLabels:
    """Settings of the labels of training images.

    Attributes:
        smoothing: probability that is spread evenly over all classes (Szegedy et al., "Rethinking
            the Inception Architecture", CVPR 2016).
        mixup: parameter of the Beta distribution of mixing weights; 0 for no mixup (Zhang et al.,
            "mixup: Beyond Empirical Risk Minimization", ICLR 2018).
        seed: seed of the mixing weights.
    """

    smoothing: float = 0.0
    mixup: float = 0.0
    seed: int = 0

    @property
    def enabled(self) -> bool:
        return bool(self.smoothing or self.mixup)

    def mixing_weight(self, epoch: int, step: int) -> float:
        """Return the weight of each image against its partner in a mini-batch, in [0, 1]."""
        if not self.mixup:
            return 1.0
        random = np.random.default_rng([self.seed, epoch, step, _MIXUP])
        return float(random.beta(self.mixup, self.mixup))

    def probabilities(
        self, labels: Labels, partners: Labels, weight: float, num_classes: int
    ) -> Probabilities:
        """Return the class probabilities of images mixed with their partners at this weight."""
        rows, mixed = np.arange(len(labels)), np.zeros((len(labels), num_classes))
        mixed[rows, labels] += weight
        mixed[rows, partners] += 1 - weight
        return ((1 - self.smoothing) * mixed + self.smoothing / num_classes).astype(np.float32)
