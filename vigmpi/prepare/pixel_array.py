import os
from pathlib import Path

import numpy as np

from vigmpi.datasets.dataset import Dataset
from vigmpi.phase import Phase

_BATCH = 1000  # images


def save_pixels(path: Path, dataset: Dataset) -> None:
    """Write the test images to a file of NumPy's format, uint8 [images, height, width, 3].

    Raises:
        OSError: if it cannot be written.
    """
    num_images, (height, width) = dataset.num_images[Phase.TEST], dataset.image_size
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
        "fortran_order": False,
        "shape": (num_images, height, width, 3),
    }
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, num_images, _BATCH):
                samples = np.arange(first, min(first + _BATCH, num_images))
                images = dataset.images(Phase.TEST, samples)
                pixels = np.round(255 * images.transpose(0, 2, 3, 1)).astype(np.uint8)
                file.write(pixels.tobytes())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)
