"""Clipping, averages, soft labels and weight decay on real ranks, in several splits."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import OnRanks
from tests.mpi.small import Training, global_loss, make_training, on_first_ranks
from tests.mpi.test_vig_layouts import BATCH_SIZE, CHUNKS, Pictures, Split, load
from vigmpi.comm.topology import Topology
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.soft_labels import SoftLabels
from vigmpi.layout.layout import Layout
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import make_layers
from vigmpi.phase import Phase
from vigmpi.pipeline.evaluator import Evaluator
from vigmpi.pipeline.trainer import TrainerConfig
from vigmpi.position import Position

SETTINGS = TrainerConfig(
    epochs=4,
    lr=3e-3,
    lr_schedule="one-cycle",
    warm_up=0.3,
    weight_decay=0.2,
    clip_norm=0.7,
    ema=0.9,
)
SOFT = SoftLabels(smoothing=0.1, mixup=0.3, seed=3)


def make(topology: Topology, layout: Layout, cuts: Split, settings: TrainerConfig) -> Training:
    return make_training(
        topology,
        layout,
        BATCH_SIZE,
        dataset=Pictures((32, 32)),
        layers=make_layers("vig_cifar", ModelConfig(10, (32, 32), drop_path=0.2), seed=3),
        split_after=cuts,
        trainer=settings,
        augmentation=Augmentation(flip=True, crop=3, seed=3),
        soft_labels=SOFT,
    )


def train(folder: str, splits: list[Split]) -> None:
    """Train with each split; save the losses, the weights and the state of the training."""
    for index, cuts in enumerate(splits):
        layout = Layout(len(cuts) + 1, 1, CHUNKS)
        if topology := on_first_ranks(layout):
            training = make(topology, layout, cuts, SETTINGS)
            assert training.trainer.averages
            test = Evaluator(training.pipeline, training.trainer.averages.model).step
            losses: list[float] = []
            for epoch in range(SETTINGS.epochs):
                for phase, step in ((Phase.TRAIN, training.trainer.step), (Phase.TEST, test)):
                    start = Position(len(losses), epoch, phase)
                    records = map(step, training.loader.batches(start))
                    losses += [global_loss(topology, record) for record in records]
            state = training.trainer.stage_state()
            stage = topology.place.stage
            np.savez(f"{folder}/{index}-{stage}", **state, losses=losses, allow_pickle=False)


def test_losses_weights_and_averages_are_bitwise_identical_for_any_split(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    splits: list[Split] = [(), ("block 1",), ("stem", "block 3")]
    on_ranks(3, train, timeout=300, folder=str(tmp_path), splits=splits)
    expected = load(tmp_path, 0)
    assert len(set(expected["losses"])) == len(expected["losses"])
    assert any(name.startswith("ema.") for name in expected)
    for index in (1, 2):
        state = load(tmp_path, index)
        assert state.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(state[name], values, err_msg=f"{splits[index]} {name}")


def clip(largest: float) -> None:
    """Compare the clipped gradients of two stages with torch's, from the ones not clipped."""
    layout = Layout(2, 1, CHUNKS)
    topology = on_first_ranks(layout)
    assert topology
    found = []
    for clip_norm in (0.0, largest):
        training = make(topology, layout, ("block 1",), TrainerConfig(clip_norm=clip_norm))
        for _ in islice(training.run(Position()), 1):
            pass
        gradients = {
            name: parameter.grad.double().clone()
            for name, parameter in training.model.trainable_parameters()
            if parameter.grad is not None
        }
        found.append(gradients)
    plain, clipped = found
    squares = sum(float((gradient**2).sum()) for gradient in plain.values())
    norm = np.sqrt(sum(topology.world.allgather(squares)))
    assert (norm > largest) == (largest < 1)  # one limit has an effect, the other has none
    factor = min(1.0, largest / norm)
    for name, gradient in plain.items():
        torch.testing.assert_close(clipped[name], factor * gradient, rtol=1e-6, atol=0, msg=name)


@pytest.mark.parametrize("largest", [0.01, 1e6])
def test_gradients_are_scaled_to_the_norm_over_all_stages(
    on_ranks: OnRanks, largest: float
) -> None:
    on_ranks(2, clip, timeout=100, largest=largest)
