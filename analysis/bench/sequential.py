"""Benchmark on one rank: the model's backends, and the kernels against the machine's limit."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from analysis.bench import limits
from analysis.bench.rounds import Sample, interleaved
from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.kernels import hidden_layer
from vigmpi.kernels.hidden_layer import HiddenLayer
from vigmpi.models.model import Model
from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.layers import study_layers

FAST_IMAGES, REFERENCE_IMAGES = 1000, 10

# All cores at their limit, with no other work.
LIMIT = "multiply-adds of the fast step alone"

Contender = tuple[Callable[[], object], float]


def step(
    num_images: int,
    config: ViGConfig = ViGConfig(),
    backend: str = "fast",
    *,
    compiled: bool = False,
) -> Contender:
    """Return the forward and backward pass of the complete model."""
    model = Model(study_layers(config, backend=backend))
    call = torch.compile(model) if compiled else model
    x = torch.rand(num_images, config.channels, *config.image_size)
    labels = torch.arange(num_images) % config.num_classes

    def run() -> None:
        F.cross_entropy(call(x), labels).backward()

    return run, num_images


class Case(NamedTuple):
    """Sizes of a hidden layer, and its load on the multiply-add units.

    The load is the number of fused multiply-adds and multiplications per hidden value; additions
    run on other units.
    """

    hidden: int
    convolution: bool

    @property
    def features(self) -> int:
        return 7 if self.convolution else 3

    @property
    def forward(self) -> int:
        return self.features + 3 + 13

    @property
    def backward(self) -> int:
        inputs = 6 if self.convolution else 3
        return 2 * (self.features + 3) + inputs + 23


CASES = {"grapher": Case(256, convolution=True), "ffn": Case(512, convolution=False)}


def step_multiply_adds() -> float:
    """Return the number of multiply-adds that the kernels of a training step run per image."""
    config = ViGConfig()
    per_node = sum(case.hidden * (case.forward + case.backward) for case in CASES.values())
    return float(config.blocks * config.num_nodes * per_node)


def steps(rounds: int) -> dict[str, Sample]:
    """Time the backends, the reference on as many images as fit comfortably."""
    operations = limits.OPERATIONS * torch.get_num_threads()
    return interleaved(
        {
            "fast": step(FAST_IMAGES),
            "reference": step(REFERENCE_IMAGES, backend="reference"),
            "reference, torch.compile": step(REFERENCE_IMAGES, backend="reference", compiled=True),
            LIMIT: (limits.multiply_adds_on_all_threads, operations / step_multiply_adds()),
        },
        rounds,
    )


def kernels(rounds: int) -> tuple[dict[str, Sample], dict[str, float]]:
    """Time operations and kernels on one thread.

    Returns:
        The samples, and the fraction of the multiply-add limit that each kernel reaches. The limit
        is measured in the same rounds as the kernels.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    contenders: dict[str, Contender] = {
        "fused multiply-adds": (limits.multiply_adds, limits.OPERATIONS),
        "divisions": (limits.divisions, limits.OPERATIONS),
    }
    for name, case in CASES.items():
        forward, backward = _kernels(case, num_images=64)
        values = 64 * 1024 * case.hidden
        contenders |= {f"{name} forward": (forward, values), f"{name} backward": (backward, values)}
    samples = interleaved(contenders, rounds)
    torch.set_num_threads(threads)

    limit = samples["fused multiply-adds"].seconds / limits.OPERATIONS
    shares = {}
    for name, case in CASES.items():
        for direction, count in (("forward", case.forward), ("backward", case.backward)):
            sample = samples[f"{name} {direction}"]
            share = np.median(count * limit / sample.seconds * sample.work)
            shares[f"{name} {direction}"] = float(share)
    return samples, shares


def _kernels(case: Case, num_images: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the forward and the backward kernel of one hidden layer."""
    x, dy = torch.randn(num_images, 3, 1024), torch.randn(num_images, 3, 1024)
    a, b = torch.randn(case.hidden, case.features), torch.randn(case.hidden)
    weights = HiddenLayer(
        torch.zeros(3), a, b, torch.randn(case.hidden, 3), torch.zeros(3), case.convolution
    )
    graph = PixelLattice(32, 32)
    halo = graph.start_halo(x)
    return (
        lambda: hidden_layer.forward(x, weights, graph, halo),
        lambda: hidden_layer.backward(x, weights, dy, graph, halo),
    )
