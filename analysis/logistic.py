"""What a logistic regression on the pixels reaches: `python -m analysis.logistic FILE [IMAGES]`.

FILE is a prepared one (`vigmpi prepare`), IMAGES how many of its training images to take,
drawn at random; all by default.
"""

import argparse
from pathlib import Path

import h5py
import numpy as np
from sklearn.linear_model import LogisticRegression

_ITERATIONS = 1000  # at most: 219 on 10,000 images of CIFAR-10


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.logistic", description="Logistic regression on the pixels."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("images", type=int, nargs="?", default=0)
    arguments = parser.parse_args()
    with h5py.File(arguments.file) as file:
        mean, std = (file.attrs[name][:, None, None] for name in ("mean", "std"))

        def pixels(split: str) -> np.ndarray:
            images = file[f"{split}/images"][:] / np.float32(255)
            return ((images - mean) / std).astype(np.float32).reshape(len(images), -1)

        chosen = np.random.default_rng(0).permutation(len(file["train/labels"]))
        chosen = chosen[: arguments.images or None]
        model = LogisticRegression(C=1e-3, max_iter=_ITERATIONS)
        model.fit(pixels("train")[chosen], file["train/labels"][:][chosen])
        accuracy = model.score(pixels("test"), file["test/labels"][:])
    print(f"logistic regression on {len(chosen):,} images: {accuracy:.2%} of the test images")


if __name__ == "__main__":
    main()
