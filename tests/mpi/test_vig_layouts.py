"""ViG models in several layouts on real ranks."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from tests.mpi.small import Noise, Training, global_loss, make_training, on_first_ranks
from vigmpi.comm.topology import Topology
from vigmpi.layout.layout import Layout
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import make_layers
from vigmpi.models.vig.block import Grapher
from vigmpi.models.vig.replay import Graphs, record_graphs, replay_graphs
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import TrainerConfig
from vigmpi.position import Position

BATCH_SIZE, CHUNKS = 7, 3  # micro-batches of 3, 2 and 2 images
Split = tuple[str, ...]  # layers behind which the pipeline is cut


class Pictures(Noise):
    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__(Path(), 5)
        self.image_size = image_size
        self.num_images = {Phase.TRAIN: 2 * BATCH_SIZE, Phase.TEST: 3}


def make(
    topology: Topology,
    layout: Layout,
    batch_size: int,
    model: str,
    side: int,
    cuts: Split,
    options: Mapping[str, Any] = {},
) -> Training:
    config = ModelConfig(image_size=(side, side), drop_path=0.2, **options)
    return make_training(
        topology,
        layout,
        batch_size,
        dataset=Pictures((side, side)),
        layers=make_layers(model, config, seed=3),
        split_after=cuts,
        trainer=TrainerConfig(lr=1e-3),
    )


def steps(training: Training, topology: Topology, number: int) -> list[float]:
    """Train this many steps and return their losses, then that of a test."""
    losses: list[float] = []
    for epoch in range(number // 2):
        start = Position(mini_batches=len(losses), epoch=epoch)
        losses += [global_loss(topology, record) for record in training.run(start)]
    test = Position(mini_batches=len(losses), epoch=number // 2, phase=Phase.TEST)
    losses += [global_loss(topology, record) for record in training.run(test)]
    return losses


def assert_every_block_has_a_choice(training: Training) -> None:
    """Check that every search looks at fewer candidates than there are."""
    for layer, module in zip(training.model.layers, training.model.layer_modules, strict=True):
        for grapher in (m for m in module.modules() if isinstance(m, Grapher)):
            _, height, width = layer.inputs.shape
            k, dilation, reduction = grapher.search
            assert k * dilation < height * width // reduction**2


def train(
    folder: str, model: str, side: int, splits: list[Split], num_steps: int, options: dict[str, str]
) -> None:
    """Train with each split and save the losses and the weights."""
    for index, cuts in enumerate(splits):
        layout = Layout(len(cuts) + 1, 1, CHUNKS)
        if topology := on_first_ranks(layout):
            training = make(topology, layout, BATCH_SIZE, model, side, cuts, options)
            assert_every_block_has_a_choice(training)
            before = {name: t.clone() for name, t in training.model.trainable_parameters()}
            losses = steps(training, topology, num_steps)
            for name, tensor in training.model.trainable_parameters():
                moves = name.endswith("weight") or name == "pos_embed"
                assert not moves or (tensor != before[name]).any(), name
            state = {key: value.numpy() for key, value in training.model.state_dict().items()}
            stage = topology.place.stage
            np.savez(f"{folder}/{index}-{stage}", **state, losses=losses, allow_pickle=False)


def load(folder: Path, index: int) -> dict[str, np.ndarray]:
    state: dict[str, np.ndarray] = {}
    for path in folder.glob(f"{index}-*.npz"):
        state |= dict(np.load(path))
    return state


@pytest.mark.parametrize(
    ("model", "side", "splits", "num_steps", "options"),
    [
        ("vig_cifar", 32, [(), ("block 1",)], 20, {}),
        ("vig_cifar", 32, [(), ("stem", "block 3")], 20, {"precision": "bf16"}),
        *(
            pytest.param(model, side, splits, 4, options, marks=pytest.mark.slow)
            for model, side, splits, options in (
                ("vig_cifar", 32, [(), ("stem", "block 3")], {"matmul": "onednn"}),
                ("vig_ti", 128, [(), ("block 0", "block 10")], {}),
                ("pvig_ti", 192, [(), ("stem", "downsample 2")], {}),
                ("pvig_ti", 192, [(), ("block 1", "downsample 3")], {"precision": "bf16"}),
                ("vig_ti", 128, [(), ("block 3",)], {"precision": "bf16", "conv": "edge"}),
            )
        ),
    ],
)
def test_losses_and_weights_are_bitwise_identical_for_any_split(
    on_ranks: OnRanks,
    tmp_path: Path,
    model: str,
    side: int,
    splits: list[Split],
    num_steps: int,
    options: dict[str, str],
) -> None:
    arguments = {"model": model, "side": side, "splits": splits, "num_steps": num_steps}
    arguments["options"] = options
    ranks = 1 + max(map(len, splits))
    on_ranks(ranks, train, timeout=500, folder=str(tmp_path), **arguments)
    expected = load(tmp_path, 0)
    losses = expected["losses"]
    assert len(losses) == num_steps + 1
    assert len(set(losses)) == len(losses)
    for index in range(1, len(splits)):
        state = load(tmp_path, index)
        assert state.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(state[name], values, err_msg=f"{splits[index]} {name}")


def compare_replicas(model: str, side: int) -> None:
    """Compare a step of two replicas with a step of one, on the same graphs."""
    graphs: Graphs = {}
    gradients: list[dict[str, np.ndarray]] = []
    for layout in (Layout(1, 1, 2 * CHUNKS), Layout(2, 2, CHUNKS)):
        topology = on_first_ranks(layout)
        found: dict[str, np.ndarray] = {}
        if topology:
            cuts = ("block 1",)[: layout.stages - 1]
            batch_size = 2 * BATCH_SIZE // layout.replicas
            training = make(topology, layout, batch_size, model, side, cuts)
            hook = record_graphs if layout.stages == 1 else replay_graphs
            hook(training.model, graphs)
            loss = [global_loss(topology, record) for record in islice(training.run(Position()), 1)]
            found["loss"] = np.array(loss)
            for name, parameter in training.model.trainable_parameters():
                assert parameter.grad is not None
                found[name] = parameter.grad.numpy().copy()
            for name, values in training.model.state_dict().items():
                if "running" in name:
                    found[name] = values.numpy().copy()
        graphs = MPI.COMM_WORLD.bcast(graphs)
        everything: dict[str, np.ndarray] = {}
        for rank in MPI.COMM_WORLD.allgather(found):
            everything |= rank
        gradients.append(everything)
    one, two = gradients
    assert one.keys() == two.keys()
    largest = max(np.abs(values).max() for name, values in one.items() if "running" not in name)
    for name, values in one.items():
        scale = np.abs(values).max() if "running" in name else largest
        np.testing.assert_allclose(two[name], values, rtol=0, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("vig_cifar", 32),
        *(pytest.param(model, 64, marks=pytest.mark.slow) for model in ("vig_ti", "pvig_ti")),
    ],
)
def test_replicas_equal_one_pipeline_on_the_same_graphs(
    on_ranks: OnRanks, model: str, side: int
) -> None:
    on_ranks(4, compare_replicas, timeout=200, model=model, side=side)
