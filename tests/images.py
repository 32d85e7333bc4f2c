"""Images for tests: class folders, and prepared files written independently of `vigmpi prepare`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from vigmpi.hdf5_strings import fixed_string
from vigmpi.phase import Phase

COUNTS = {Phase.TRAIN: 12, Phase.TEST: 5}


def random_images(
    sides: tuple[int, int], num_classes: int, counts: dict[Phase, int] = COUNTS
) -> dict[Phase, tuple[np.ndarray, np.ndarray]]:
    """Return pixels, [images, 3, height, width], and labels of each phase."""
    random = np.random.default_rng(0)
    return {
        phase: (
            random.integers(256, size=(count, 3, *sides), dtype=np.uint8),
            random.integers(num_classes, size=count),
        )
        for phase, count in counts.items()
    }


def write_prepared(
    path: Path,
    images: dict[Phase, tuple[Any, Any]],
    num_classes: int,
    modify: Callable[[h5py.File], None] | None = None,
) -> None:
    """Write a prepared file.

    Args:
        images: pixels and labels of each phase: arrays, or shape and type of an empty dataset.
        modify: function that modifies the open file at the end.
    """
    with h5py.File(path, "w") as file:
        for phase, (pixels, labels) in images.items():
            for name, values in (("images", pixels), ("labels", labels)):
                filled = isinstance(values, np.ndarray)
                early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                content = {"data": values} if filled else {"shape": values[0], "dtype": values[1]}
                file.create_dataset(f"{phase}/{name}", **content, dcpl=early)
        file["classes"] = np.array([f"class {i}".encode() for i in range(num_classes)])
        file.attrs["format"] = fixed_string("vigmpi images 1")
        file.attrs["source"] = fixed_string("a test")
        file.attrs["images_sha256"] = fixed_string("0" * 64)
        file.attrs["mean"], file.attrs["std"] = np.array([0.5, 0.25, 0.125]), np.full(3, 0.5)
        if modify:
            modify(file)


def write_image_files(
    folder: Path,
    classes: list[str],
    sides: tuple[int, int],
    *,
    each: int = 4,
    suffix: str = ".png",
) -> dict[str, np.ndarray]:
    """Write train/CLASS/IMAGE and test/CLASS/IMAGE, not in the order of their names.

    Args:
        sides: height and width.
        each: number of images of each class in each phase.

    Returns:
        Pixels, [3, height, width], by path.
    """
    random = np.random.default_rng(0)
    names = [f"{p}/{c}/{i}{suffix}" for p in Phase for c in classes for i in range(each)]
    random.shuffle(names)
    images = {}
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(256, size=(*sides, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        images[name] = pixels.transpose(2, 0, 1)
    return images
