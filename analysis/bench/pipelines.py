"""Two ranks of one thread each: vigmpi beside torch's own pipeline and data parallelism.

Run by `python -m analysis.bench` under mpiexec. Both libraries work in the same two processes,
in turn: MPI carries vigmpi's messages, gloo torch's.
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
from vigmpi.layout.split import split_blocks
from vigmpi.models.normalization import LinearBeforeNorm
from vigmpi.models.study import ViG, ViGConfig
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import Trainer, TrainerConfig
from vigmpi.position import Position
from vigmpi.record.spans import seconds as spent

WORLD = MPI.COMM_WORLD
FAST_IMAGES, REFERENCE_IMAGES = 1000, 20

Step = Callable[[], object]


class Premade(Synthetic):
    """Makes an image once: the peers' are made before the first step."""

    def __init__(self) -> None:
        super().__init__(Path(), 0)
        self._made: dict[bytes, Images] = {}

    def images(self, phase: Phase, samples: Indices) -> Images:
        key = samples.tobytes()
        if key not in self._made:
            self._made[key] = super().images(phase, samples)
        return self._made[key]


def vigmpi_step(layout: Layout, images: int, seconds: dict[str, float] | None = None) -> Step:
    """A whole training step; the seconds of its forward and backward are added up."""
    topology = make_topology(WORLD, layout)
    stage = topology.place.stage
    model = ViG(
        ViGConfig(),
        split_blocks(8, layout.stages, None)[stage],
        head=stage == layout.stages - 1,
    )
    plan = TrainerConfig({Phase.TRAIN: 1, Phase.TEST: 1}, images // layout.replicas, 0)
    trainer = Trainer(topology, layout, model, Premade(), plan, Activity(topology.world.rank))

    def step() -> None:
        [result] = trainer.run(Position())
        if seconds is not None:
            seconds.update(spent(result.spans))

    return step


class Contiguous(torch.autograd.Function):
    """Gradients as torch's pipeline sends them."""

    @staticmethod
    def forward(ctx: object, features: Tensor) -> Tensor:  # noqa: ARG004
        return features.view_as(features)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient.contiguous()


class StageModule(nn.Module):
    """A stage's blocks, as torch's pipeline takes them."""

    def __init__(self, backend: str) -> None:
        super().__init__()
        rank = WORLD.rank
        self.model = ViG(
            ViGConfig(), range(4 * rank, 4 * rank + 4), backend=backend, head=rank == 1
        )

    def forward(self, features: Tensor) -> Tensor:
        features = Contiguous.apply(features)
        for layer in self.model.layers():
            features = layer.forward(features, self.model.graph)
        return features


def torch_step(backend: str, chunks: int, images: int) -> Step:
    part = StageModule(backend)
    stage = PipelineStage(part, WORLD.rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, chunks, loss_fn=F.cross_entropy)
    optimizer = torch.optim.Adam(part.parameters(), lr=1e-4)
    x, labels = torch.rand(images, 3, 1024), torch.arange(images) % 10

    def step() -> None:
        optimizer.zero_grad()
        if WORLD.rank == 0:
            schedule.step(x)
        else:
            schedule.step(target=labels, losses=[])
        optimizer.step()

    return step


def ddp_step(backend: str, images: int) -> Step:
    vig = ViG(backend=backend)
    for layer in vig.modules():
        if isinstance(layer, LinearBeforeNorm):
            layer.bias.requires_grad_(False)  # it takes no gradient, and DDP would wait for one
    model = DistributedDataParallel(vig)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x, labels = torch.rand(images // 2, 3, 32, 32), torch.arange(images // 2) % 10

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def together(step: Step) -> Step:
    """Both ranks begin and end at once."""

    def run() -> None:
        wait(WORLD.Ibarrier())
        step()
        wait(WORLD.Ibarrier())

    return run


class Bounded:
    """A step of vigmpi that keeps how near it came to GPipe's closed form.

    The sum of the stages' times for a micro-batch plus (M - 1) times the slowest's, forward and
    backward each (Huang et al., "GPipe", NeurIPS 2019), over the time of the step without the
    making of its images.
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
    torch.set_num_threads(1)
    meeting = f"file://{output}.store"
    dist.init_process_group("gloo", init_method=meeting, rank=WORLD.rank, world_size=2)
    bounded = {chunks: Bounded(chunks) for chunks in (5, 10, 20)}
    steps: dict[str, tuple[Step, float]] = {
        f"vigmpi, {chunks} chunks": (step, FAST_IMAGES) for chunks, step in bounded.items()
    }
    replicas = vigmpi_step(Layout(stages=1, replicas=2, chunks=1), FAST_IMAGES)
    steps["vigmpi, 2 replicas"] = (replicas, FAST_IMAGES)
    for backend, images in (("fast", FAST_IMAGES), ("reference", REFERENCE_IMAGES)):
        for chunks in (5, 10):
            step = torch_step(backend, chunks, images)
            steps[f"torch pipelining, {backend} stages, {chunks} chunks"] = (step, images)
        steps[f"torch DDP, {backend}"] = (ddp_step(backend, images), images)
    work = WORLD.size * limits.OPERATIONS / step_multiply_adds()
    steps[LIMIT] = (limits.multiply_adds, work)
    with progress_thread(WORLD):
        samples = interleaved(
            {name: (together(step), work) for name, (step, work) in steps.items()}, rounds
        )
    if WORLD.rank == 0:
        seconds = {name: [list(s.seconds), s.work] for name, s in samples.items()}
        bounds = {chunks: step.shares[1:] for chunks, step in bounded.items()}  # [0]: warm-up
        Path(output).write_text(json.dumps([seconds, bounds]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
