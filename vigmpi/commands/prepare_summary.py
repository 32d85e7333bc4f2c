"""Description of a prepared file for the terminal."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import numpy as np

from vigmpi.cli.config import RunConfig
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.decoding import RESAMPLING
from vigmpi.datasets.file_tree import listed, printable
from vigmpi.models import MODELS
from vigmpi.phase import Phase
from vigmpi.prepare.source import Source

_MAX_CLASSES = 30
_MODEL, _LEAST_IMAGES = "vig_cifar", 2  # in training, on each replica
_REPLICAS = 2


def summary(source: Source, dataset: Dataset, output: Path) -> str:
    """Return what was made of a source, and the command that trains on it."""
    return "\n".join(_lines(source, dataset, output))


def _lines(source: Source, dataset: Dataset, output: Path) -> Iterator[str]:
    height, width = dataset.image_size
    yield f"prepared: {output} ({dataset.num_classes} classes, {height}x{width} pixels)"
    yield from source.remarks
    if source.unreadable:
        yield f"left out as unreadable ({len(source.unreadable):,}): {listed(source.unreadable)}"
    yield f"sizes found: {_range(source.sizes)}{_resizing(source.sizes, dataset.image_size)}"
    yield from _class_table(dataset)
    yield f"train with: mpirun -n {_REPLICAS} vigmpi {' '.join(_options(dataset, output))}"


def _options(dataset: Dataset, output: Path) -> Iterator[str]:
    """Yield options that fit the images and their number."""
    multiple, num_images = MODELS[_MODEL].multiple, dataset.num_images[Phase.TRAIN]
    mini_batch = _REPLICAS * RunConfig.batch_size
    last = num_images % mini_batch or mini_batch
    too_small = last < _REPLICAS * _LEAST_IMAGES
    fits = all(side % multiple == 0 for side in dataset.image_size)
    if fits and not (too_small and num_images < mini_batch):
        yield f"--model {_MODEL}"
        if too_small:
            yield "--drop-last"
    yield f"--replicas {_REPLICAS} --dataset folder --data-dir {quote(str(output))}"


def _range(sizes: set[tuple[int, int]]) -> str:
    """Return the smallest and the largest of heights and widths."""
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    smallest, largest = (f"{height}x{width} pixels" for height, width in (by_area[0], by_area[-1]))
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _resizing(sizes: set[tuple[int, int]], size: tuple[int, int]) -> str:
    if sizes == {size}:
        return ""
    shape = "" if all(h * size[1] == w * size[0] for h, w in sizes) else ", stretched to a square"
    return f"; resized by the filter {RESAMPLING.name.capitalize()}{shape}"


def _class_table(dataset: Dataset) -> Iterator[str]:
    counts = {}
    for phase in Phase:
        labels = dataset.labels(phase, np.arange(dataset.num_images[phase]))
        counts[phase] = np.bincount(labels, minlength=dataset.num_classes)
    names = [printable(name) for name in dataset.class_names[:_MAX_CLASSES]]
    width = max(len("all classes"), *map(len, names))
    yield f"{'class':{width}}  training    test"
    rows = [*zip(names, counts[Phase.TRAIN], counts[Phase.TEST], strict=False)]
    for name, train, test in rows:
        yield f"{name:{width}}  {train:8,}{test:8,}"
    if dataset.num_classes > _MAX_CLASSES:
        yield f"and {dataset.num_classes - _MAX_CLASSES:,} more classes"
    train, test = (int(counts[phase].sum()) for phase in Phase)
    yield f"{'all classes':{width}}  {train:8,}{test:8,}"
