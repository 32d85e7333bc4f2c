from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vigmpi.datasets.dataset import InMemory, Labels, Pixels
from vigmpi.phase import Phase

_NUM_TRAINING = 1500


class Digits(InMemory):
    """scikit-learn's 8x8 grey-scale digits, each pixel enlarged to 4x4 RGB pixels.

    The last 297 digits are the test set. The digits are stored in the order of their collection,
    so that few of the writers of the test set contributed to the training set.
    """

    name = "digits"
    details = "scikit-learn's handwritten digits enlarged to 32x32 RGB"
    num_images = {Phase.TRAIN: _NUM_TRAINING, Phase.TEST: 297}  # noqa: RUF012

    def _read(self, phase: Phase) -> tuple[Pixels, Labels]:
        rows = slice(_NUM_TRAINING) if phase is Phase.TRAIN else slice(_NUM_TRAINING, None)
        table = np.loadtxt(_file(), delimiter=",", dtype=np.int64)[rows]
        grey = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        large = grey.repeat(4, axis=1).repeat(4, axis=2)
        return np.stack([large] * 3, axis=1), table[:, 64]


def _file() -> Path:
    # Importing scikit-learn's load_digits would add 1.6 s to a rank's start.
    package = find_spec("sklearn")
    assert package
    assert package.origin
    return Path(package.origin).parent / "datasets/data/digits.csv.gz"
