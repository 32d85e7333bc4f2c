"""`vigmpi predict`: classification of image files."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vigmpi.checkpoint.loading import load
from vigmpi.checkpoint.manifest import DamagedError, Manifest
from vigmpi.checkpoint.search import newer
from vigmpi.checkpoint.state import state_by_layer
from vigmpi.cli.config import PredictConfig
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.cifar10 import Cifar10
from vigmpi.datasets.dataset import Images, scaled
from vigmpi.datasets.decoding import decode
from vigmpi.errors import InputError
from vigmpi.models import build
from vigmpi.models.model import Model, make_model
from vigmpi.phase import Phase
from vigmpi.standard_streams import print_result, show

_BATCH_SIZE = 100
_TOP = 3


def predict(config: PredictConfig) -> None:
    """Print the most probable classes of each image, or all probabilities as JSON.

    Raises:
        InputError: if the checkpoint or an image cannot be read.
    """
    model = _model(config.start.manifest)
    state = state_by_layer(model)
    found = newer(config.start) or config.start
    try:
        start = load(found, state, state)
    except DamagedError:
        if not (instead := newer(found)):
            raise
        start = load(instead, state, state)
    for reason in start.skipped:
        show(f"vigmpi: warning: checkpoint skipped: {reason}.\n")
    manifest = start.manifest
    names = manifest.class_names if manifest else Cifar10.class_names
    normalize = _normalization(manifest)
    probabilities = np.concatenate(list(_probabilities(model, config.images, normalize)))
    if config.json:
        classes = [dict(zip(names, map(float, row), strict=True)) for row in probabilities]
        pairs = zip(config.images, classes, strict=True)
        content = [{"image": str(path), "classes": row} for path, row in pairs]
        print_result(json.dumps(content, indent=1))
        return
    width = max(len(str(path)) for path in config.images)
    lines = []
    for path, row in zip(config.images, probabilities, strict=True):
        top = np.argsort(-row)[:_TOP]
        cells = [f"{path!s:{width}}", *(f"{names[i]} {row[i]:6.1%}" for i in top)]
        lines.append("  ".join(cells))
    print_result("\n".join(lines))


def _model(manifest: Manifest | None) -> Model:
    if manifest is None:
        return build().eval()
    return make_model(manifest.model, manifest.model_config).eval()


def _normalization(manifest: Manifest | None) -> Augmentation:
    if manifest is None or not manifest.normalization:
        return Augmentation()
    mean, std = np.array(manifest.normalization)
    return Augmentation(mean=mean, std=std)


@torch.no_grad()
def _probabilities(
    model: Model, paths: tuple[Path, ...], normalize: Augmentation
) -> Iterator[np.ndarray]:
    """Yield the class probabilities of each batch of images, [images, classes]."""
    _, height, width = model.layers[0].inputs.shape
    for first in range(0, len(paths), _BATCH_SIZE):
        batch = paths[first : first + _BATCH_SIZE]
        images: Images = scaled(np.stack([_pixels(path, (height, width)) for path in batch]))
        images = normalize(images, Phase.TEST, 0, np.arange(len(batch)))
        yield model(torch.from_numpy(images)).softmax(dim=1).numpy()


def _pixels(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        return decode(path.read_bytes(), str(path), size)
    except OSError as error:
        problem = f"cannot read the image: {path} ({error.strerror})"
    except InputError as error:
        problem = str(error).rpartition(". ")[0]  # its remedy is for data sets
    raise InputError(f"{problem}. Use the path of an image file.")
