import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.datasets.order import micro_batches
from vigmpi.errors import InputError
from vigmpi.layout.layout import Layout
from vigmpi.phase import Phase
from vigmpi.pipeline.loader import Loader

LAYOUT = Layout(stages=2, replicas=2, chunks=3)
STEPS = [np.arange(0, 10), np.arange(10, 20), np.arange(20, 25)]


class Numbered(Dataset):
    """Images and labels equal to the sample's index; it logs the samples that are read."""

    image_size = (2, 2)

    def __init__(self) -> None:
        super().__init__(Path(), 0)
        self.read: list[int] = []
        self._changed = threading.Condition()

    def load(self, *, images: bool, labels: bool) -> None: ...

    def images(self, phase: Phase, samples: Indices) -> Images:  # noqa: ARG002
        with self._changed:
            self.read += samples.tolist()
            self._changed.notify_all()
        return np.broadcast_to(samples[:, None, None, None], (len(samples), 3, 2, 2)).astype("f4")

    def labels(self, phase: Phase, samples: Indices) -> Labels:  # noqa: ARG002
        return samples

    def wait_for(self, sample: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: sample in self.read, timeout=20)


def loader(dataset: Dataset, replica: int = 0, *, first: bool = True, last: bool = True) -> Loader:
    augmentation = Augmentation()
    return Loader(dataset, augmentation, LAYOUT, replica, torch.float32, first=first, last=last)


@pytest.mark.parametrize("replica", [0, 1])
def test_a_rank_loads_its_replicas_share_in_order(replica: int) -> None:
    batches = list(loader(Numbered(), replica).prefetch(Phase.TRAIN, 0, STEPS))
    assert len(batches) == 3
    for (samples, future), expected in zip(batches, STEPS, strict=True):
        np.testing.assert_array_equal(samples, expected)
        batch = future.result()
        assert batch.num_images == len(expected)
        pixels = torch.cat(list(batch.features))[:, 0, 0].int().tolist()
        assert pixels == torch.cat(list(batch.labels)).tolist()
        share = micro_batches(expected, LAYOUT.replicas, LAYOUT.chunks)[replica]
        assert pixels == np.concatenate(share).tolist()
        assert list(batch.sizes) == [len(m) for m in batch.labels]


def test_each_rank_reads_only_the_data_that_its_stage_needs() -> None:
    first = loader(Numbered(), last=False).load(Phase.TRAIN, 0, STEPS[0])
    last = loader(Numbered(), first=False).load(Phase.TRAIN, 0, STEPS[0])
    middle = loader(Numbered(), first=False, last=False).load(Phase.TRAIN, 0, STEPS[0])
    assert (len(first.features), len(first.labels)) == (3, 0)
    assert (len(last.features), len(last.labels)) == (0, 3)
    assert (len(middle.features), len(middle.labels)) == (0, 0)
    assert first.sizes == last.sizes == middle.sizes == [2, 2, 2]


def test_only_the_next_step_is_read_ahead() -> None:
    dataset = Numbered()
    steps = loader(dataset).prefetch(Phase.TRAIN, 0, STEPS)
    _, first = next(steps)
    dataset.wait_for(10)  # the second step, which has not been requested yet
    first.result()
    assert 20 not in dataset.read
    next(steps)
    dataset.wait_for(20)


def test_a_read_error_is_raised_when_its_batch_is_awaited() -> None:
    class Truncated(Numbered):
        def images(self, phase: Phase, samples: Indices) -> Images:
            if 10 in samples:
                raise InputError("images.h5 became shorter")
            return super().images(phase, samples)

    steps = loader(Truncated()).prefetch(Phase.TRAIN, 0, STEPS)
    _, first = next(steps)
    assert first.result().num_images == 10
    _, second = next(steps)
    with pytest.raises(RuntimeError, match=r"images.h5 became shorter"):
        second.result()


def test_augmentation_depends_on_the_epoch() -> None:
    augmentation = Augmentation(crop=1)
    load = Loader(
        Numbered(), augmentation, Layout(1, 1, 1), 0, torch.float32, first=True, last=True
    ).load
    samples = np.arange(1, 33)
    one, same, other = (load(Phase.TRAIN, e, samples).features[0] for e in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
