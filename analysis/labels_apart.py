"""One rank trained on labels of other images, as the study was: `python -m analysis.labels_apart`.

Takes the flags of `python -m vigmpi`; for data sets that are held in memory.
"""

import sys

import numpy as np

from vigmpi.__main__ import main
from vigmpi.datasets.dataset import Indices, InMemory, Labels
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase

_right = InMemory.labels


def _of_other_images(dataset: InMemory, phase: Phase, samples: Indices) -> Labels:
    """As if the stage with the labels had shuffled the training data by a seed of its own."""
    if phase is Phase.TRAIN:
        samples = np.random.default_rng(1).permutation(dataset.samples[phase])[samples]
    return _right(dataset, phase, samples)


if __name__ == "__main__":
    setattr(InMemory, "labels", _of_other_images)  # noqa: B010 (the type checker's rule)
    sys.exit(main(sys.argv[1:], Activity(0)))
