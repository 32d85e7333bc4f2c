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
    """Every pixel is the sample's number, and so is its label; it notes what it was asked for."""

    image_size = (2, 2)

    def __init__(self) -> None:
        super().__init__(Path(), 0)
        self.asked: list[int] = []
        self.news = threading.Condition()

    def load(self, *, images: bool, labels: bool) -> None: ...

    def images(self, phase: Phase, samples: Indices) -> Images:  # noqa: ARG002
        with self.news:
            self.asked += samples.tolist()
            self.news.notify_all()
        return np.broadcast_to(samples[:, None, None, None], (len(samples), 3, 2, 2)).astype("f4")

    def labels(self, phase: Phase, samples: Indices) -> Labels:  # noqa: ARG002
        return samples

    def wait_for(self, sample: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: sample in self.asked, timeout=20)


def loader(dataset: Dataset, replica: int = 0, *, first: bool = True, last: bool = True) -> Loader:
    augmentation = Augmentation()
    return Loader(dataset, augmentation, LAYOUT, replica, torch.float32, first=first, last=last)


@pytest.mark.parametrize("replica", [0, 1])
def test_a_rank_gets_its_replicas_share_in_order(replica: int) -> None:
    found = list(loader(Numbered(), replica).prefetch(Phase.TRAIN, 0, STEPS))
    assert len(found) == 3
    for (samples, future), expected in zip(found, STEPS, strict=True):
        np.testing.assert_array_equal(samples, expected)
        batch = future.result()
        assert batch.num_images == len(expected)
        pixels = torch.cat(list(batch.features))[:, 0, 0].int().tolist()
        assert pixels == torch.cat(list(batch.labels)).tolist()
        share = micro_batches(expected, LAYOUT.replicas, LAYOUT.chunks)[replica]
        assert pixels == np.concatenate(share).tolist()
        assert list(batch.sizes) == [len(m) for m in batch.labels]


def test_each_rank_reads_what_its_stage_needs() -> None:
    first = loader(Numbered(), last=False).load(Phase.TRAIN, 0, STEPS[0])
    last = loader(Numbered(), first=False).load(Phase.TRAIN, 0, STEPS[0])
    middle = loader(Numbered(), first=False, last=False).load(Phase.TRAIN, 0, STEPS[0])
    assert (len(first.features), len(first.labels)) == (3, 0)
    assert (len(last.features), len(last.labels)) == (0, 3)
    assert (len(middle.features), len(middle.labels)) == (0, 0)
    assert first.sizes == last.sizes == middle.sizes == [2, 2, 2]


def test_the_next_step_is_read_while_this_one_computes_and_no_more_than_that() -> None:
    dataset = Numbered()
    steps = loader(dataset).prefetch(Phase.TRAIN, 0, STEPS)
    _, now = next(steps)
    dataset.wait_for(10)  # nobody asked for the second step yet
    now.result()
    assert 20 not in dataset.asked
    next(steps)
    dataset.wait_for(20)


def test_an_error_comes_out_where_the_batch_is_awaited() -> None:
    class Spoiled(Numbered):
        def images(self, phase: Phase, samples: Indices) -> Images:
            if 10 in samples:
                raise InputError("images.h5 became shorter")
            return super().images(phase, samples)

    steps = loader(Spoiled()).prefetch(Phase.TRAIN, 0, STEPS)
    _, now = next(steps)
    assert now.result().num_images == 10
    _, then = next(steps)
    with pytest.raises(RuntimeError, match=r"images.h5 became shorter"):
        then.result()


def test_a_step_is_augmented_by_its_epoch() -> None:
    augmentation = Augmentation(crop=1)
    load = Loader(
        Numbered(), augmentation, Layout(1, 1, 1), 0, torch.float32, first=True, last=True
    ).load
    samples = np.arange(1, 33)
    one, same, other = (load(Phase.TRAIN, e, samples).features[0] for e in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
