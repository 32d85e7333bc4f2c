"""Loading of a rank's share of each mini-batch during the previous step."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset, Images, Indices
from vigmpi.datasets.order import (
    fixed_permutation,
    images_left,
    micro_batches,
    mini_batches,
    shuffled,
)
from vigmpi.datasets.soft_labels import SoftLabels
from vigmpi.errors import InputError
from vigmpi.layout.bands import strips
from vigmpi.layout.layout import Layout
from vigmpi.models.layer import Boundary, MicroBatch
from vigmpi.phase import Phase
from vigmpi.pipeline.batch import Batch
from vigmpi.position import Position


@dataclass(frozen=True)
class LoaderConfig:
    """Settings of the order and the preparation of the images.

    Attributes:
        batch_size: images per mini-batch of one replica.
        seed: seed of the sample order.
        limits: maximum number of mini-batches of each phase per epoch (0: no limit).
        augmentation: augmentation of the training images.
        soft_labels: label smoothing and mixup of the training images.
        drop_last: whether to leave out a smaller last mini-batch in training.
    """

    batch_size: int
    seed: int
    limits: Mapping[Phase, int]
    augmentation: Augmentation = Augmentation()
    soft_labels: SoftLabels = SoftLabels()
    drop_last: bool = False


class Loader:
    """Producer of one rank's batches.

    Args:
        rank: rank whose batches are loaded: images on first stages, labels on last stages.
        inputs: boundary in front of the first layer, for this rank's part of an image.
    """

    def __init__(
        self, dataset: Dataset, layout: Layout, rank: int, inputs: Boundary, config: LoaderConfig
    ) -> None:
        self._dataset = dataset
        self._layout = layout
        self._replica = layout.place(rank).replica
        self._first, self._last = layout.is_first(rank), layout.is_last(rank)
        self._rows = strips(*dataset.image_size, layout.parts)[layout.place(rank).part]
        self._inputs = inputs
        self._config = config

    def batches(self, start: Position) -> "Iterator[Future[Batch]]":
        """Yield the remaining batches of a phase, each after starting to load the next one."""
        config, phase = self._config, start.phase
        num_images = self._dataset.num_images[phase]
        size, limit = config.batch_size * self._layout.replicas, config.limits[phase]
        if phase is Phase.TRAIN:
            order = shuffled(num_images, config.seed, start.epoch)
            before, drop_last = start.num_images, config.drop_last
            num_images = before + images_left(num_images, before, size, drop_last=drop_last)
            order = order[:num_images]
        else:
            order = fixed_permutation(num_images)
        upcoming: Future[Batch] | None = None
        for samples in mini_batches(order[start.num_images :], size, limit, start.step):
            done = max(start.num_images / num_images, start.step / limit if limit else 0.0)
            current, upcoming = upcoming, self._start(start, samples, done)
            if current:
                yield current
            start = start.after(len(samples))
        if upcoming:
            yield upcoming

    def _start(self, position: Position, samples: Indices, done: float) -> "Future[Batch]":
        future: Future[Batch] = Future()

        def run() -> None:
            try:
                future.set_result(self.load(position, samples, done))
            except BaseException as error:
                future.set_exception(error)

        # Starting a thread costs 0.1 ms per batch; a daemon thread does not delay an early exit.
        threading.Thread(target=run, name="loader", daemon=True).start()
        return future

    def load(self, position: Position, samples: Indices, done: float = 0.0) -> Batch:
        """Load this rank's share of a global mini-batch of these samples.

        Raises:
            RuntimeError: if the files have changed since the start of the run. This is not an
                InputError, which all ranks would have to raise.
        """
        shares, partners = (
            micro_batches(order, self._layout.replicas, self._layout.chunks)
            for order in (samples, samples[::-1])
        )
        pairs = zip(shares[self._replica], partners[self._replica], strict=True)
        share = [_Share(m, partner) for m, partner in pairs if len(m)]
        try:
            features = [self._features(position, each) for each in share if self._first]
            labels = [self._labels(position, each) for each in share if self._last]
        except InputError as error:
            raise RuntimeError(str(error)) from error
        return Batch(
            position.phase,
            position.epoch,
            position.step,
            done,
            len(samples),
            [len(m) for replica in shares for m in replica],
            [MicroBatch(each.samples, position.mini_batches) for each in share],
            features,
            labels,
        )

    def _features(self, position: Position, share: "_Share") -> torch.Tensor:
        images = self._images(position, share.samples)
        weight = self._mixing_weight(position)
        if weight < 1:
            images *= np.float32(weight)
            images += np.float32(1 - weight) * self._images(position, share.partners)
        return self._inputs.conform(torch.from_numpy(images).to(self._inputs.dtype))

    def _images(self, position: Position, samples: Indices) -> Images:
        """Return this rank's rows of the images as the model sees them."""
        phase, rows, augmentation = position.phase, self._rows, self._config.augmentation
        if phase is Phase.TRAIN and augmentation.crop:  # moves pixels from row to row
            images = self._dataset.images(phase, samples)
            images = augmentation(images, phase, position.epoch, samples)
            return images[:, :, rows.start : rows.stop]
        images = self._dataset.strips(phase, samples, rows)
        return augmentation(images, phase, position.epoch, samples)

    def _labels(self, position: Position, share: "_Share") -> torch.Tensor:
        soft, phase = self._config.soft_labels, position.phase
        labels = self._dataset.labels(phase, share.samples)
        if phase is Phase.TEST or not soft.enabled:
            return torch.from_numpy(labels)
        partners = self._dataset.labels(phase, share.partners)
        weight, num_classes = self._mixing_weight(position), self._dataset.num_classes
        return torch.from_numpy(soft.probabilities(labels, partners, weight, num_classes))

    def _mixing_weight(self, position: Position) -> float:
        if position.phase is Phase.TEST:
            return 1.0
        return self._config.soft_labels.mixing_weight(position.epoch, position.step)


class _Share(NamedTuple):
    """Images of a micro-batch, and the image with which mixup mixes each of them.

    The partners are the images of the global mini-batch in reverse order, which depends neither on
    the number of replicas nor on that of micro-batches.
    """

    samples: Indices
    partners: Indices
