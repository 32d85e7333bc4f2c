from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tests.conftest import OnRanks
from tests.mpi.small import CONFIG, Noise, global_loss, make_training, on_first_ranks
from vigmpi.datasets.order import micro_batches, mini_batches, shuffled
from vigmpi.layout.layout import Layout
from vigmpi.models.model import Model
from vigmpi.models.study.layers import study_layers
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import TrainerConfig
from vigmpi.position import Position

SEED = int(np.random.SeedSequence().generate_state(1)[0])  # new inputs in each session

LAYOUTS = [  # stages, replicas, chunks, batch size; there are 32 samples
    (1, 1, 1, 8),
    (2, 1, 3, 7),
    (4, 1, 2, 5),  # fewer chunks than stages
    (2, 2, 5, 7),  # the last 4 images make 10 micro-batches, all empty on replica 1
    (1, 4, 3, 4),
    (3, 1, 4, 10),
]


def compare_gradients(seed: int) -> None:
    """Compare every mini-batch of an epoch with plain autograd on the reference backend."""
    torch.set_default_dtype(torch.float64)
    for stages, replicas, chunks, batch_size in LAYOUTS:
        layout = Layout(stages, replicas, chunks)
        if topology := on_first_ranks(layout):
            config = TrainerConfig(lr=1e-30)
            training = make_training(topology, layout, batch_size, seed=seed, trainer=config)
            reference = Model(study_layers(CONFIG, backend="reference", seed=seed))
            order = shuffled(Noise.num_images[Phase.TRAIN], seed, 0)
            batches = mini_batches(order, batch_size * replicas, 0)
            for mini_batch, result in zip(batches, training.run(Position()), strict=True):
                reference.zero_grad()
                loss = _backward(reference, mini_batch, layout, seed)
                assert abs(global_loss(topology, result) - loss) < 1e-11 * loss
                expected = _gradients(reference)
                scale = max(float(gradient.abs().max()) for gradient in expected.values())
                for name, gradient in _gradients(training.model).items():
                    error = float((gradient - expected.get(name, 0)).abs().max())
                    assert error < 1e-11 * scale, f"{layout} {name}: {error} of {scale}"


def _gradients(model: Model) -> dict[str, torch.Tensor]:
    """Return gradients by name; autograd has none for biases before a norm, the trainer zeros."""
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _backward(model: Model, mini_batch: np.ndarray, layout: Layout, seed: int) -> float:
    dataset, loss = Noise(Path(), seed), 0.0
    dataset.load(images=True, labels=True)
    for share in micro_batches(mini_batch, layout.replicas, layout.chunks):
        for samples in share:
            if len(samples):
                images = torch.from_numpy(dataset.images(Phase.TRAIN, samples)).double()
                labels = torch.from_numpy(dataset.labels(Phase.TRAIN, samples))
                share_loss = F.cross_entropy(model(images), labels, reduction="sum") / len(
                    mini_batch
                )
                share_loss.backward()
                loss += share_loss.item()
    return loss


def test_gradients_of_every_layout_equal_those_of_one_process(on_ranks: OnRanks) -> None:
    on_ranks(4, compare_gradients, seed=SEED)
