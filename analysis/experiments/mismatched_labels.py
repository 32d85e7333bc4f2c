"""Training on one rank with the labels of other images, as in the study.

Run as `python -m analysis.experiments.mismatched_labels` with the options of `vigmpi train`. The
data set must be one that is held in memory.
"""

import sys

import numpy as np

from vigmpi.__main__ import main
from vigmpi.datasets.dataset import Indices, InMemory, Labels
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase

_matching_labels = InMemory.labels


def _mismatched_labels(dataset: InMemory, phase: Phase, samples: Indices) -> Labels:
    """Return labels as if the last stage had shuffled the training data with its own seed."""
    if phase is Phase.TRAIN:
        samples = np.random.default_rng(1).permutation(dataset.num_images[phase])[samples]
    return _matching_labels(dataset, phase, samples)


if __name__ == "__main__":
    setattr(InMemory, "labels", _mismatched_labels)  # noqa: B010 (mypy rejects an assignment)
    sys.exit(main(sys.argv[1:], Activity(0)))
