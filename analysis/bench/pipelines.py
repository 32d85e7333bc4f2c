"""Benchmark of two single-threaded ranks: vigmpi, torch's pipeline and torch's DDP.

`python -m analysis.bench` starts this module under mpiexec. The contenders take turns in the same
two processes; vigmpi communicates over MPI and torch over gloo.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from analysis.bench import limits
from analysis.bench.rounds import interleaved
from analysis.bench.sequential import LIMIT, step_multiply_adds
from vigmpi.comm.collectives import allgather_rows
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.comm.topology import make_topology
from vigmpi.comm.waiting import wait
from vigmpi.datasets.dataset import Images, Indices
from vigmpi.datasets.synthetic import Synthetic
from vigmpi.layout.layout import Layout
from vigmpi.layout.split import split_layers
from vigmpi.models import build
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import Model, make_layers
from vigmpi.models.normalization import LinearBeforeNorm
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.loader import Loader, LoaderConfig
from vigmpi.pipeline.pipeline import Pipeline, PipelineConfig
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position
from vigmpi.record.timings import TIMINGS

WORLD = MPI.COMM_WORLD
FAST_IMAGES, REFERENCE_IMAGES = 1000, 20

Step = Callable[[], object]


class CachedSynthetic(Synthetic):
    """Synthetic images that are generated once, as torch's are before the first step."""

    def __init__(self) -> None:
        super().__init__(Path(), 0)
        self._cache: dict[bytes, Images] = {}

    def strips(self, phase: Phase, samples: Indices, rows: range) -> Images:
        key = samples.tobytes() + bytes(str(rows), "ascii")
        if key not in self._cache:
            self._cache[key] = super().strips(phase, samples, rows)
        return self._cache[key]


def vigmpi_step(layout: Layout, num_images: int, seconds: dict[str, float] | None = None) -> Step:
    """Return a training step of vigmpi that also puts its seconds by column into `seconds`."""
    topology = make_topology(WORLD, layout)
    layers = make_layers("study", ModelConfig())
    stages = split_layers(layers, layout.stages)
    pipeline_config = PipelineConfig(layout, layers, stages, num_images // layout.replicas)
    model, activity = (
        Model(pipeline_config.stage_layers(topology.place.stage)),
        Activity(WORLD.rank),
    )
    trainer = Trainer(Pipeline(topology, pipeline_config, model, activity), TrainerConfig())
    order = LoaderConfig(pipeline_config.batch_size, 0, {Phase.TRAIN: 1, Phase.TEST: 1})
    loader = Loader(CachedSynthetic(), layout, WORLD.rank, layers[0].inputs, order)

    def step() -> None:
        [pending] = loader.batches(Position())
        record = trainer.step(pending)
        if seconds is not None:
            seconds.update(zip(TIMINGS, record.ranks["timings"][0], strict=True))

    return step


class Contiguous(torch.autograd.Function):
    """Identity whose gradient is contiguous, as it must be for torch's pipeline to send it."""

    @staticmethod
    def forward(ctx: object, features: Tensor) -> Tensor:  # noqa: ARG004
        return features.view_as(features)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient.contiguous()


class StageModule(nn.Module):
    """The layers of one stage as a module for torch's pipeline."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        layers = make_layers("study", ModelConfig(), backend=backend)
        own = split_layers(layers, 2)[WORLD.rank]
        self.model = Model(layers[own.start : own.stop])

    def forward(self, features: Tensor) -> Tensor:
        return self.model(Contiguous.apply(features))


def torch_step(backend: str, chunks: int, num_images: int) -> Step:
    """Return a training step of torch's GPipe schedule on two stages."""
    module = StageModule(backend)
    stage = PipelineStage(module, WORLD.rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, chunks, loss_fn=F.cross_entropy)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    x, labels = torch.rand(num_images, 3, 32, 32), torch.arange(num_images) % 10

    def step() -> None:
        optimizer.zero_grad()
        if WORLD.rank == 0:
            schedule.step(x)
        else:
            schedule.step(target=labels, losses=[])
        optimizer.step()

    return step


def ddp_step(backend: str, num_images: int) -> Step:
    """Return a training step of torch's DistributedDataParallel on two replicas."""
    vig = build(backend=backend)
    for layer in vig.modules():
        if isinstance(layer, LinearBeforeNorm):
            layer.bias.requires_grad_(False)  # it gets no gradient, but DDP would wait for one
    model = DistributedDataParallel(vig)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, labels = torch.rand(num_images // 2, 3, 32, 32), torch.arange(num_images // 2) % 10

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def synchronized(step: Step) -> Step:
    """Return the step between two barriers, so that both ranks measure the same time."""

    def run() -> None:
        wait(WORLD.Ibarrier())
        step()
        wait(WORLD.Ibarrier())

    return run


class BoundedStep:
    """A pipeline step of vigmpi that records the ratio of GPipe's closed form to its own time.

    For forward and backward each, the closed form is the sum of the stages' times for one
    micro-batch plus (M - 1) times the slowest stage's (Huang et al., "GPipe", NeurIPS 2019). The
    time of the step excludes waiting for its images.
    """

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._seconds: dict[str, float] = {}
        layout = Layout(stages=2, replicas=1, chunks=chunks)
        self._step = vigmpi_step(layout, FAST_IMAGES, self._seconds)
        self.shares: list[float] = []

    def __call__(self) -> None:
        self._step()
        seconds = self._seconds
        own = np.array([seconds["forward_s"], seconds["backward_s"]]) / self._chunks
        stages = allgather_rows(WORLD, own)
        bound = (stages.sum(axis=0) + (self._chunks - 1) * stages.max(axis=0)).sum()
        self.shares.append(float(bound / (seconds["step_s"] - seconds["data_s"])))


def main(rounds: int, output: str) -> None:
    """Time all contenders and let rank 0 write their seconds and bounds to a JSON file."""
    torch.set_num_threads(1)
    store = f"file://{output}.store"
    dist.init_process_group("gloo", init_method=store, rank=WORLD.rank, world_size=2)
    bounded = {chunks: BoundedStep(chunks) for chunks in (5, 10, 20)}
    steps: dict[str, tuple[Step, float]] = {
        f"vigmpi, {chunks} chunks": (step, FAST_IMAGES) for chunks, step in bounded.items()
    }
    replicas = vigmpi_step(Layout(stages=1, replicas=2, chunks=1), FAST_IMAGES)
    steps["vigmpi, 2 replicas"] = (replicas, FAST_IMAGES)
    for backend, num_images in (("fast", FAST_IMAGES), ("reference", REFERENCE_IMAGES)):
        for chunks in (5, 10):
            step = torch_step(backend, chunks, num_images)
            steps[f"torch pipelining, {backend} stages, {chunks} chunks"] = (step, num_images)
        steps[f"torch DDP, {backend}"] = (ddp_step(backend, num_images), num_images)
    work = WORLD.size * limits.OPERATIONS / step_multiply_adds()
    steps[LIMIT] = (limits.multiply_adds, work)
    with progress_thread(WORLD):
        samples = interleaved(
            {name: (synchronized(step), work) for name, (step, work) in steps.items()}, rounds
        )
    if WORLD.rank == 0:
        seconds = {name: [list(s.seconds), s.work] for name, s in samples.items()}
        # The first share is from the warm-up.
        bounds = {chunks: step.shares[1:] for chunks, step in bounded.items()}
        Path(output).write_text(json.dumps([seconds, bounds]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
