"""Loading of a rank's share of each mini-batch during the previous step."""

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
    """Producer of one rank's batches.

    Args:
        replica: index of the rank's replica, which determines its samples.
        dtype: data type of the node features.
        first, last: true if the rank runs the first stage, which needs images, or the last stage,
            which needs labels.
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
        """Yield each mini-batch with its future batch, after starting to load the next one."""
        upcoming: tuple[Indices, Future[Batch]] | None = None
        for samples in mini_batches:
            current, upcoming = upcoming, (samples, self._start(phase, epoch, samples))
            if current:
                yield current
        if upcoming:
            yield upcoming

    def _start(self, phase: Phase, epoch: int, samples: Indices) -> "Future[Batch]":
        future: Future[Batch] = Future()

        def run() -> None:
            try:
                future.set_result(self.load(phase, epoch, samples))
            except BaseException as error:
                future.set_exception(error)

        # Starting a thread costs 0.1 ms per batch; a daemon thread does not delay an early exit.
        threading.Thread(target=run, name="loader", daemon=True).start()
        return future

    def load(self, phase: Phase, epoch: int, samples: Indices) -> Batch:
        """Load this rank's share of a global mini-batch of these samples.

        Raises:
            RuntimeError: if the files have changed since the start of the run. This is not an
                InputError, which all ranks would have to raise.
        """
        share = micro_batches(samples, self._layout.replicas, self._layout.chunks)[self._replica]
        share = [micro_batch for micro_batch in share if len(micro_batch)]
        try:
            features = [self._features(phase, epoch, m) for m in share if self._first]
            labels = [torch.from_numpy(self._dataset.labels(phase, m)) for m in share if self._last]
        except InputError as error:
            raise RuntimeError(str(error)) from error
        return Batch(len(samples), [len(m) for m in share], features, labels)

    def _features(self, phase: Phase, epoch: int, samples: Indices) -> torch.Tensor:
        images = self._augmentation(self._dataset.images(phase, samples), phase, epoch, samples)
        return torch.from_numpy(images).to(self._dtype).flatten(2)
