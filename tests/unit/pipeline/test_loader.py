import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.datasets.held_out import HeldOut
from vigmpi.datasets.order import fixed_permutation, micro_batches
from vigmpi.datasets.soft_labels import SoftLabels
from vigmpi.errors import InputError
from vigmpi.layout.bands import strips
from vigmpi.layout.layout import Layout
from vigmpi.models.layer import Boundary
from vigmpi.phase import Phase
from vigmpi.pipeline.loader import Loader, LoaderConfig
from vigmpi.position import Position

LAYOUT = Layout(stages=3, replicas=2, chunks=3)
START = Position(mini_batches=7, phase=Phase.TEST)
ORDER = fixed_permutation(25)
STEPS = [ORDER[:10], ORDER[10:20], ORDER[20:]]


class Numbered(Dataset):
    """Images and labels equal to the sample's index; it logs the samples that are read."""

    image_size = (2, 2)
    num_images = {Phase.TRAIN: 25, Phase.TEST: 25}  # noqa: RUF012

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


def loader(dataset: Dataset, rank: int = 0, layout: Layout = LAYOUT, crop: int = 0) -> Loader:
    limits = {Phase.TRAIN: 0, Phase.TEST: 0}
    config = LoaderConfig(5, 0, limits, Augmentation(crop=crop))
    return Loader(dataset, layout, rank, Boundary((3, 2, 2)), config)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_progress_goes_on_from_its_fraction_with_other_replicas(limit: int, replicas: int) -> None:
    """Ten images before, in one mini-batch; afterwards 5, 10 or 20 images in each."""
    config = LoaderConfig(5, 0, {Phase.TRAIN: limit, Phase.TEST: 0})
    layout = Layout(1, replicas, 1)
    start = Position(1, step=1, num_images=10)
    steps = Loader(Numbered(), layout, 0, Boundary((3, 2, 2)), config).batches(start)
    done = [step.result().done for step in steps]
    if limit == 1:
        assert not done
    else:
        assert done[0] == max(1 / limit if limit else 0, 10 / 25)
        assert done == sorted(done)
        assert done[-1] < 1


@pytest.mark.parametrize("replica", [0, 1])
def test_a_rank_loads_its_replicas_share_in_order(replica: int) -> None:
    rank = LAYOUT.stages * replica
    images, labels = (list(loader(Numbered(), r).batches(START)) for r in (rank, rank + 2))
    assert len(images) == len(labels) == 3
    for number, expected in enumerate(STEPS):
        first, last = images[number].result(), labels[number].result()
        assert first.num_images == last.num_images == len(expected)
        assert (first.phase, first.epoch, first.step) == (Phase.TEST, 0, number)
        assert first.done == 10 * number / 25
        pixels = torch.cat(list(first.features))[:, 0, 0, 0].int().tolist()
        assert pixels == torch.cat(list(last.labels)).tolist()
        share = micro_batches(expected, LAYOUT.replicas, LAYOUT.chunks)[replica]
        assert pixels == np.concatenate(share).tolist()
        assert first.sizes == [len(m) for m in last.labels]
        assert first.all_sizes == LAYOUT.micro_batch_sizes(len(expected))
        for micro_batch, samples in zip(first.micro_batches, share, strict=False):
            assert micro_batch.step == 7 + number
            np.testing.assert_array_equal(micro_batch.samples, samples)


def test_a_phase_is_continued_where_it_stopped() -> None:
    later = START.after(10)
    batches = [future.result() for future in loader(Numbered()).batches(later)]
    assert [batch.step for batch in batches] == [1, 2]
    np.testing.assert_array_equal(
        batches[0].features[0][:, 0, 0, 0], STEPS[1][: batches[0].sizes[0]]
    )


def test_each_rank_reads_only_the_data_that_its_stage_needs() -> None:
    first, middle, last = (loader(Numbered(), rank).load(START, STEPS[0]) for rank in range(3))
    assert (len(first.features), len(first.labels)) == (3, 0)
    assert (len(last.features), len(last.labels)) == (0, 3)
    assert (len(middle.features), len(middle.labels)) == (0, 0)
    assert first.sizes == last.sizes == middle.sizes == [2, 2, 2]


def test_only_the_next_step_is_read_ahead() -> None:
    dataset = Numbered()
    steps = loader(dataset).batches(START)
    first = next(steps)
    dataset.wait_for(STEPS[1][0])  # the second step, which has not been requested yet
    first.result()
    assert not set(STEPS[2]) & set(dataset.read)
    next(steps)
    dataset.wait_for(STEPS[2][0])


def test_a_read_error_is_raised_when_its_batch_is_awaited() -> None:
    class Truncated(Numbered):
        def images(self, phase: Phase, samples: Indices) -> Images:
            if STEPS[1][0] in samples:
                raise InputError("images.h5 became shorter")
            return super().images(phase, samples)

    steps = loader(Truncated()).batches(START)
    assert next(steps).result().num_images == 10
    with pytest.raises(RuntimeError, match=r"images.h5 became shorter"):
        next(steps).result()


def test_augmentation_depends_on_the_epoch() -> None:
    load = loader(Numbered(), layout=Layout(1, 1, 1), crop=1).load
    samples = np.arange(1, 33)
    one, same, other = (load(Position(epoch=e), samples).features[0] for e in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("layout", [Layout(1, 1, 1), Layout(1, 1, 3), Layout(1, 2, 2)])
def test_mixup_mixes_the_same_pairs_in_every_layout(layout: Layout) -> None:
    soft = SoftLabels(mixup=0.5, seed=2)
    samples, position = np.arange(3, 13), Position(epoch=1, step=4)
    weight = soft.mixing_weight(1, 4)
    pixels: list[torch.Tensor] = []
    probabilities: list[torch.Tensor] = []
    for replica in range(layout.replicas):
        config = LoaderConfig(5, 0, {Phase.TRAIN: 0, Phase.TEST: 0}, soft_labels=soft)
        load = Loader(Few(), layout, replica, Boundary((3, 2, 2)), config).load
        batch = load(position, samples)
        pixels += [features[:, 0, 0, 0] for features in batch.features]
        probabilities += batch.labels
        test = load(position._replace(phase=Phase.TEST), samples)
        assert all(labels.ndim == 1 for labels in test.labels)
        assert set(torch.cat(list(test.features)).unique().tolist()) <= set(samples.tolist())
    mixed = weight * samples + (1 - weight) * samples[::-1]
    np.testing.assert_allclose(torch.cat(pixels).numpy(), mixed, rtol=1e-6)
    one_hot = np.eye(25)
    expected = weight * one_hot[samples] + (1 - weight) * one_hot[samples[::-1]]
    np.testing.assert_allclose(torch.cat(probabilities).numpy(), expected, rtol=1e-6)


class Few(Numbered):
    class_names = tuple(map(str, range(25)))


class Photographs(Numbered):
    name = "photographs"
    details = "for a test"
    image_size = (7, 5)

    def images(self, phase: Phase, samples: Indices) -> Images:  # noqa: ARG002
        return np.random.default_rng(0).random((25, 3, 7, 5), dtype=np.float32)[samples]


@pytest.mark.parametrize("crop", [0, 1])
@pytest.mark.parametrize("held_out", [0, 5])
def test_parts_are_the_rows_of_whole_images(crop: int, held_out: int) -> None:
    augmentation = Augmentation(True, crop, np.full(3, 0.4), np.full(3, 0.3), seed=3)
    config = LoaderConfig(
        6, 0, {Phase.TRAIN: 0, Phase.TEST: 0}, augmentation, SoftLabels(mixup=0.5, seed=2)
    )
    dataset = HeldOut(Photographs(), held_out, 0) if held_out else Photographs()

    def rows(phase: Phase, part: int, parts: int) -> torch.Tensor:
        inputs = Boundary((3, len(strips(7, 5, parts)[part]), 5))
        own = Loader(dataset, Layout(1, 1, 2, parts), part, inputs, config)
        position = Position(epoch=1, phase=phase)
        return torch.cat(list(own.load(position, np.array([4, 0, 2])).features))

    for phase in Phase:
        pieces = [rows(phase, part, 3) for part in range(3)]
        assert torch.equal(torch.cat(pieces, dim=2), rows(phase, 0, 1))
