"""A rank's share of every mini-batch, read while the one before it is computed."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future

import torch

from vigmpi.datasets import Dataset
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Indices
from vigmpi.datasets.order import micro_batches
from vigmpi.errors import InputError
from vigmpi.layout.layout import Layout
from vigmpi.phase import Phase
from vigmpi.pipeline.executor import Batch


class Loader:
    """Makes the batches of one rank.

    Args:
        replica: whose samples.
        first, last: whether the rank runs the first stage, which sees images, and the last one,
            which sees labels.
        dtype: of the images.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: Augmentation,
        layout: Layout,
        replica: int,
        dtype: torch.dtype,
        *,
        first: bool,
        last: bool,
    ) -> None:
        self._dataset = dataset
        self._augmentation = augmentation
        self._layout = layout
        self._replica = replica
        self._dtype = dtype
        self._first, self._last = first, last

    def prefetch(
        self, phase: Phase, epoch: int, mini_batches: Iterable[Indices]
    ) -> Iterator[tuple[Indices, "Future[Batch]"]]:
        """Yield each mini-batch with its batch to be; the next one's is under way by then."""
        coming: tuple[Indices, Future[Batch]] | None = None
        for samples in mini_batches:
            ready, coming = coming, (samples, self._start(phase, epoch, samples))
            if ready:
                yield ready
        if coming:
            yield coming

    def _start(self, phase: Phase, epoch: int, samples: Indices) -> "Future[Batch]":
        future: Future[Batch] = Future()

        def run() -> None:
            try:
                future.set_result(self.load(phase, epoch, samples))
            except BaseException as error:
                future.set_exception(error)

        # A thread for each batch costs 0.1 ms, and a daemon never holds up a run that ends early.
        threading.Thread(target=run, name="loader", daemon=True).start()
        return future

    def load(self, phase: Phase, epoch: int, samples: Indices) -> Batch:
        """Args: samples: of the global mini-batch.

        Raises:
            RuntimeError: the files are not what they were when the run began. (No InputError:
                other ranks know nothing of it.)
        """
        share = micro_batches(samples, self._layout.replicas, self._layout.chunks)[self._replica]
        mine = [micro_batch for micro_batch in share if len(micro_batch)]
        try:
            features = [self._features(phase, epoch, m) for m in mine if self._first]
            labels = [torch.from_numpy(self._dataset.labels(phase, m)) for m in mine if self._last]
        except InputError as error:
            raise RuntimeError(str(error)) from error
        return Batch(len(samples), [len(m) for m in mine], features, labels)

    def _features(self, phase: Phase, epoch: int, samples: Indices) -> torch.Tensor:
        images = self._augmentation(self._dataset.images(phase, samples), phase, epoch, samples)
        return torch.from_numpy(images).to(self._dtype).flatten(2)
