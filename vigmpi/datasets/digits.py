from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vigmpi.datasets.dataset import InMemory, Labels, Pixels
from vigmpi.phase import Phase

_TRAINING = 1500


class Digits(InMemory):
    """scikit-learn's 8x8 grey digits, each pixel as 4x4 equal RGB pixels.

    The last 297 are for testing: they come in the order of collection, so few of their writers
    are among the first 1,500.
    """

    name = "digits"
    about = "scikit-learn's handwritten digits brought to 32x32 RGB"
    samples = {Phase.TRAIN: _TRAINING, Phase.TEST: 297}  # noqa: RUF012

    def _read(self, phase: Phase) -> tuple[Pixels, Labels]:
        part = slice(None, _TRAINING) if phase is Phase.TRAIN else slice(_TRAINING, None)
        table = np.loadtxt(_file(), delimiter=",", dtype=np.int64)[part]
        grey = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        large = grey.repeat(4, axis=1).repeat(4, axis=2)
        return np.stack([large] * 3, axis=1), table[:, 64]


def _file() -> Path:
    # Not by scikit-learn's load_digits: its imports take 1.6 s of a rank's start.
    package = find_spec("sklearn")
    assert package
    assert package.origin
    return Path(package.origin).parent / "datasets/data/digits.csv.gz"
