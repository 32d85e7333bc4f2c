"""Test accuracy of a logistic regression on the pixels of a prepared file."""

import argparse
from pathlib import Path

import h5py
import numpy as np
from sklearn.linear_model import LogisticRegression

_MAX_ITERATIONS = 1000  # 10,000 images of CIFAR-10 take 219


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.experiments.logistic_regression", description=__doc__
    )
    parser.add_argument("file", type=Path, help="file written by `vigmpi prepare`")
    parser.add_argument(
        "images",
        type=int,
        nargs="?",
        default=0,
        help="number of training images to fit, drawn at random (default: all)",
    )
    arguments = parser.parse_args()
    with h5py.File(arguments.file) as file:
        mean, std = (file.attrs[name][:, None, None] for name in ("mean", "std"))

        def pixels(phase: str) -> np.ndarray:
            images = file[f"{phase}/images"][:] / np.float32(255)
            return ((images - mean) / std).astype(np.float32).reshape(len(images), -1)

        chosen = np.random.default_rng(0).permutation(len(file["train/labels"]))
        chosen = chosen[: arguments.images or None]
        model = LogisticRegression(C=1e-3, max_iter=_MAX_ITERATIONS)
        model.fit(pixels("train")[chosen], file["train/labels"][:][chosen])
        accuracy = model.score(pixels("test"), file["test/labels"][:])
    print(f"logistic regression on {len(chosen):,} images: {accuracy:.2%} test accuracy")


if __name__ == "__main__":
    main()
