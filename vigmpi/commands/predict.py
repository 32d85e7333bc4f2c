"""`vigmpi predict`: classification of image files."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from vigmpi.cli.config import PredictConfig
from vigmpi.commands.image_paths import image_paths
from vigmpi.commands.prediction_formats import WRITERS, Prediction
from vigmpi.commands.trained_model import class_names, load_trained_model, normalization
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Pixels, scaled
from vigmpi.datasets.decoding import decode
from vigmpi.datasets.file_tree import UnreadableError, listed, printable, read_file
from vigmpi.errors import RunError
from vigmpi.host import num_cores
from vigmpi.models.model import Model
from vigmpi.phase import Phase
from vigmpi.standard_streams import print_result
from vigmpi.terminal.progress_bar import progress_bar

_MAX_BATCH, _BATCH_PIXELS = 100, 2**19
_MAX_DECODERS = 8  # each holds a photograph at its full size


def predict(config: PredictConfig) -> None:
    """Print the classes of each image, in the order given.

    Raises:
        InputError: if the checkpoint cannot be read or there are no such images.
        RunError: if images could not be read, after the others have been classified.
    """
    paths = image_paths(config.images)
    model, manifest = load_trained_model(config.start)
    names = class_names(manifest)
    problems: list[str] = []
    predictions = _predictions(model, paths, normalization(manifest), problems)
    width = max(len(printable(str(path))) for path in paths)
    for line in WRITERS[config.format](predictions, names, width):
        print_result(line)
    if problems:
        raise RunError(
            f"cannot read {len(problems):,} of {len(paths):,} images: {listed(problems)}. Replace "
            f"or remove them; the others have been classified."
        )


@torch.no_grad()
def _predictions(
    model: Model, paths: Sequence[Path], normalize: Augmentation, problems: list[str]
) -> Iterator[Prediction]:
    """Yield the prediction of each image, and add the problems of those that cannot be read."""
    _, height, width = model.layers[0].inputs.shape
    batch_size = max(1, min(_MAX_BATCH, _BATCH_PIXELS // (height * width)))
    hidden = sys.stdout.isatty() or None  # None: hidden if standard error is no terminal
    with (
        ThreadPoolExecutor(min(num_cores(), _MAX_DECODERS)) as pool,
        progress_bar(total=len(paths), unit=" images", disable=hidden) as bar,
    ):
        for first in range(0, len(paths), batch_size):
            batch = paths[first : first + batch_size]
            read = list(pool.map(lambda path: _pixels(path, (height, width)), batch))
            pixels = [image for image in read if not isinstance(image, str)]
            rows = iter(_probabilities(model, pixels, normalize) if pixels else ())
            for path, image in zip(batch, read, strict=True):
                if isinstance(image, str):
                    problems.append(f"{printable(str(path))} ({image})")
                    yield Prediction(path, None, image)
                else:
                    yield Prediction(path, next(rows))
            bar.update(len(batch))


def _probabilities(model: Model, pixels: list[Pixels], normalize: Augmentation) -> np.ndarray:
    """Return the class probabilities of images, [images, classes]."""
    images = normalize(scaled(np.stack(pixels)), Phase.TEST, 0, np.arange(len(pixels)))
    return model(torch.from_numpy(images)).softmax(dim=1).numpy()


def _pixels(path: Path, size: tuple[int, int]) -> Pixels | str:
    """Return the pixels of an image, or why it cannot be read."""
    try:
        return decode(read_file(path, str(path)), str(path), size)
    except UnreadableError as error:
        return error.reason
