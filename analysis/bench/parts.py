"""Benchmark of parts: when does it pay to cut an image?

    mpiexec -n 2 python -m analysis.bench.parts

Two ranks with one thread each train the study's model on images of different sizes: on one image,
either whole on each rank or cut into two parts (latency), and on eight images with two parts, two
stages or two replicas (throughput).

The time of a step on one image is modelled by

    T(P) = fixed + time per node * nodes of the largest strip + messages

where a message takes latency + bytes / bandwidth, fitted to a ping-pong between the ranks, and a
gathering from P parts takes log2(P) latencies. `fixed` and the time per node are fitted to the
whole images. Messages are counted in a step on two parts. The model also predicts the times of more
parts than there are cores.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.comm.collectives import allgather_rows
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.comm.topology import make_topology
from vigmpi.comm.waiting import wait
from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.host import processor_name
from vigmpi.layout.bands import strips
from vigmpi.layout.layout import Layout
from vigmpi.layout.split import split_layers
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import Model, make_layers
from vigmpi.monitor.activity import Activity
from vigmpi.parallel_graphs.lattice_strip import ExchangedHalo, LatticeStrip
from vigmpi.phase import Phase
from vigmpi.pipeline.loader import Loader, LoaderConfig
from vigmpi.pipeline.pipeline import Pipeline, PipelineConfig
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position

WORLD = MPI.COMM_WORLD
SIDES = (32, 64, 128, 256, 512, 1024)
_IMAGES = 8  # of a step whose throughput is measured
_THROUGHPUT_SIDES = (32, 64, 128, 256)
_SHAPES = {"2 parts": (1, 1, 1, 2), "2 stages": (2, 1, 4, 1), "2 replicas": (1, 2, 1, 1)}
_PARTS = (2, 4, 8, 16)
_SIZES = (8, 256, 4096, 2**16, 2**18, 2**20, 2**22)  # bytes of ping-pong messages


class Network(NamedTuple):
    """Latency in seconds, and bandwidth in bytes per second, of a message between two ranks."""

    latency_s: float
    bandwidth: float


class Messages(NamedTuple):
    """Messages of a step on parts.

    Attributes:
        gatherings, halos: numbers of gatherings and of exchanges of halos.
        gathered_bytes: bytes of all gathered values.
        halo_bytes: bytes of all halos that a rank sends to one of its neighbours.
    """

    gatherings: int
    halos: int
    gathered_bytes: int
    halo_bytes: int


class CountingStrip(LatticeStrip):
    """Strip that counts its messages."""

    gatherings = halos = gathered_bytes = halo_bytes = 0

    def start_halo(self, x: Tensor) -> ExchangedHalo:
        self.halos += 1
        self.halo_bytes += x.shape[0] * x.shape[1] * self.width * x.element_size()
        return super().start_halo(x)

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        self.gatherings += 1
        gathered = super().gather(values)
        self.gathered_bytes += gathered.nbytes
        return gathered


class Random(Dataset):
    """The same random images in each step."""

    name, details = "random", "for a benchmark"
    num_images = {Phase.TRAIN: _IMAGES, Phase.TEST: 0}  # noqa: RUF012

    def __init__(self, side: int) -> None:
        super().__init__(Path(), 0)
        self.image_size = side, side
        random = np.random.default_rng(0)
        self._images = random.random((_IMAGES, 3, side, side), dtype=np.float32)

    def load(self, *, images: bool, labels: bool) -> None:
        pass

    def images(self, phase: Phase, samples: Indices) -> Images:  # noqa: ARG002
        return self._images[samples]

    def labels(self, phase: Phase, samples: Indices) -> Labels:  # noqa: ARG002
        return samples % self.num_classes


def step_of(
    world: MPI.Intracomm, layout: Layout, num_images: int, side: int
) -> tuple[Callable[[], object], CountingStrip | None]:
    """Return a training step, and the strip if the images are cut."""
    topology, activity = make_topology(world, layout), Activity(world.rank)
    graph = CountingStrip(side, side, topology.parts) if layout.parts > 1 else None
    layers = make_layers("study", ModelConfig(10, (side, side)), graph=graph)
    stages = split_layers(layers, layout.stages)
    config = PipelineConfig(layout, layers, stages, num_images // layout.replicas)
    model = Model(config.stage_layers(topology.place.stage))
    trainer = Trainer(Pipeline(topology, config, model, activity), TrainerConfig())
    order = LoaderConfig(config.batch_size, 0, {Phase.TRAIN: 1, Phase.TEST: 1})
    loader = Loader(Random(side), layout, world.rank, layers[0].inputs, order)
    return lambda: [trainer.step(pending) for pending in loader.batches(Position())], graph


def seconds(step: Callable[[], object], rounds: int) -> float:
    """Return the median time of a step on the slower rank."""
    step()
    times = []
    for _ in range(rounds):
        wait(WORLD.Ibarrier())
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return float(np.median(allgather_rows(WORLD, np.array(times)).max(axis=0)))


def ping_pong(rounds: int = 200) -> Network:
    """Fit latency and bandwidth to messages of many sizes between the two ranks."""
    medians = []
    for size_bytes in _SIZES:
        buffer, times = np.zeros(size_bytes, np.uint8), []
        for _ in range(rounds):
            start = time.perf_counter()
            for sender in (0, 1):
                request = WORLD.Isend if WORLD.rank == sender else WORLD.Irecv
                wait(request(buffer, 1 - WORLD.rank))
            times.append((time.perf_counter() - start) / 2)
        medians.append(float(np.median(times)))
    slope, constant = np.polyfit(_SIZES, medians, 1, w=1 / np.array(medians))
    return Network(float(max(constant, min(medians))), float(1 / slope))


def predicted(
    fixed_s: float, node_s: float, side: int, parts: int, messages: Messages, network: Network
) -> float:
    """Return the modelled time of a step on one image."""
    rows = max(map(len, strips(side, side, parts)))
    latencies = messages.gatherings * math.log2(parts) + messages.halos
    neighbours = 1 if parts == 2 else 2
    size_bytes = messages.gathered_bytes + neighbours * messages.halo_bytes
    transfer_s = latencies * network.latency_s + size_bytes / network.bandwidth
    return fixed_s + node_s * rows * side + transfer_s


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="mpiexec -n 2 python -m analysis.bench.parts",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--rounds", type=int, default=7, help="number of steps")
    parser.add_argument("--output", type=Path, default=Path("parts.h5"), help="HDF5 file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    alone = MPI.Intracomm(WORLD.Split(WORLD.rank))
    with progress_thread(WORLD):
        network = ping_pong()
        whole, cut, messages = [], [], []
        for side in SIDES:
            rounds = max(3, min(arguments.rounds, arguments.rounds * 512 // side))
            whole.append(seconds(step_of(alone, Layout(1, 1, 1), 1, side)[0], rounds))
            step, strip = step_of(WORLD, Layout(1, 1, 1, 2), 1, side)
            assert strip
            step()
            messages.append(
                Messages(strip.gatherings, strip.halos, strip.gathered_bytes, strip.halo_bytes)
            )
            cut.append(seconds(step, rounds))
        rates = {
            name: [
                _IMAGES / seconds(step_of(WORLD, Layout(*shape), _IMAGES, side)[0], 3)
                for side in _THROUGHPUT_SIDES
            ]
            for name, shape in _SHAPES.items()
        }
    if WORLD.rank == 0:
        report(arguments.output, network, whole, cut, messages, rates)


def report(
    path: Path,
    network: Network,
    whole: list[float],
    cut: list[float],
    messages: list[Messages],
    rates: dict[str, list[float]],
) -> None:
    """Print the tables and write the measurements."""
    nodes = np.square(SIDES)
    node_s, fixed_s = np.polyfit(nodes, whole, 1, w=1 / np.array(whole))
    print(
        f"latency {network.latency_s * 1e6:.0f} us, bandwidth {network.bandwidth / 1e9:.2f} GB/s; "
        f"{fixed_s * 1e3:.2f} ms and {node_s * 1e6:.2f} us a node\n"
    )
    print(
        "| side | whole, s | 2 parts, s | speedup | modelled speedup | error of modelled time | "
        "modelled speedup of 4, 8, 16 parts |\n|---|---|---|---|---|---|---|"
    )
    models = []
    for side, one, two, each in zip(SIDES, whole, cut, messages, strict=True):
        model = [
            predicted(float(fixed_s), float(node_s), side, parts, each, network) for parts in _PARTS
        ]
        models.append(model)
        speedups = ", ".join(f"{one / seconds:.2f}" for seconds in model[1:])
        print(
            f"| {side} | {one:.4f} | {two:.4f} | {one / two:.2f} | {one / model[0]:.2f} | "
            f"{model[0] / two - 1:+.0%} | {speedups} |"
        )
    print(f"\n| images/s | {' | '.join(map(str, _THROUGHPUT_SIDES))} |")
    print("|---|" + "---|" * len(_THROUGHPUT_SIDES))
    for name, values in rates.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    with h5py.File(path, "w") as file:
        file.attrs.update(processor=processor_name(), cores=os.cpu_count(), **network._asdict())
        file["side"], file["whole_s"], file["cut_s"] = SIDES, whole, cut
        file["messages"], file["model_s"] = np.array(messages), models
        for name, values in rates.items():
            file[f"images_per_s/{name}"] = values
    print(f"\n{processor_name()}, {os.cpu_count()} cores; results: {path}")


if __name__ == "__main__":
    main()
