"""`python -m vigmpi predict`: the classes of some images."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vigmpi.checkpoint.manifest import Manifest
from vigmpi.checkpoint.weights import read_values
from vigmpi.cli.config import PredictConfig
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.cifar10 import Cifar10
from vigmpi.datasets.dataset import Images, scaled
from vigmpi.datasets.decoding import decode
from vigmpi.errors import InputError
from vigmpi.models.study import ViG, ViGConfig
from vigmpi.phase import Phase
from vigmpi.pipeline.state import load_model, model_state

_BATCH = 100
_SHOWN = 3


def predict(config: PredictConfig) -> None:
    """Print the likeliest classes of each image; all of them as JSON.

    Raises:
        InputError: the checkpoint or an image cannot be read.
    """
    about = config.start.manifest
    model = _model(about)
    shapes = {name: values.shape for name, values in model_state(model).items()}
    load_model(model, read_values(config.start, shapes))
    names = about.class_names if about else Cifar10.class_names
    probabilities = np.concatenate(list(_probabilities(model, config.images, _prepare(about))))
    if config.json:
        answers = [dict(zip(names, map(float, row), strict=True)) for row in probabilities]
        named = zip(config.images, answers, strict=True)
        print(json.dumps([{"image": str(path), "classes": row} for path, row in named], indent=1))
        return
    width = max(len(str(path)) for path in config.images)
    for path, row in zip(config.images, probabilities, strict=True):
        likeliest = np.argsort(-row)[:_SHOWN]
        print(f"{path!s:{width}}", *(f"{names[i]} {row[i]:6.1%}" for i in likeliest), sep="  ")


def _model(about: Manifest | None) -> ViG:
    if about is None:
        return ViG().eval()
    try:
        blocks, readout = int(about.settings["blocks"]), str(about.settings["readout"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the checkpoint does not say what model it is of ({error})") from error
    config = ViGConfig(
        blocks=blocks,
        readout=readout,
        num_classes=len(about.class_names),
        image_size=about.image_size,
    )
    return ViG(config).eval()


def _prepare(about: Manifest | None) -> Augmentation:
    if about is None or not about.normalization:
        return Augmentation()
    mean, std = np.array(about.normalization)
    return Augmentation(mean=mean, std=std)


@torch.no_grad()
def _probabilities(
    model: ViG, paths: tuple[Path, ...], prepare: Augmentation
) -> Iterator[np.ndarray]:
    for first in range(0, len(paths), _BATCH):
        batch = paths[first : first + _BATCH]
        images: Images = scaled(
            np.stack([_pixels(path, model.config.image_size) for path in batch])
        )
        ready = prepare(images, Phase.TEST, 0, np.arange(len(batch)))
        yield model(torch.from_numpy(ready)).softmax(dim=1).numpy()


def _pixels(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        return decode(path.read_bytes(), str(path), size)
    except OSError as error:
        reason = f"{path} can't be read ({error.strerror})"
    except InputError as error:
        reason = str(error).partition("; type: ")[0]
    raise InputError(f"{reason}; type: the path of an image")
