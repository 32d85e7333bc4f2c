"""One rank: the model's paths, and the kernel against the machine's limit."""

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
from vigmpi.models.study import ViG, ViGConfig

FAST_IMAGES, REFERENCE_IMAGES = 1000, 10

# All cores at their limit, with nothing else to do.
LIMIT = "the multiply-adds of the collapsed step alone"

Contender = tuple[Callable[[], object], float]


def step(
    images: int, config: ViGConfig = ViGConfig(), backend: str = "fast", *, compiled: bool = False
) -> Contender:
    """Forward and backward of the whole model."""
    model = ViG(config, backend=backend)
    call = torch.compile(model) if compiled else model
    x = torch.rand(images, config.channels, *config.image_size)
    labels = torch.arange(images) % config.num_classes

    def run() -> None:
        F.cross_entropy(call(x), labels).backward()

    return run, images


class Case(NamedTuple):
    """A hidden layer's sizes, and what its formulas ask of the multiply-add units.

    Fused multiply-adds and multiplications for one hidden value; additions run in other units.
    """

    hidden: int
    graph: PixelLattice | None

    @property
    def features(self) -> int:
        return 7 if self.graph else 3

    @property
    def forward(self) -> int:
        return self.features + 3 + 13

    @property
    def backward(self) -> int:
        inputs = 6 if self.graph else 3
        return 2 * (self.features + 3) + inputs + 23


CASES = {"grapher": Case(256, PixelLattice(32, 32)), "ffn": Case(512, None)}


def step_multiply_adds() -> float:
    """What the kernels of one training step ask for, an image."""
    config = ViGConfig()
    of_node = sum(case.hidden * (case.forward + case.backward) for case in CASES.values())
    return float(config.blocks * config.num_nodes * of_node)


def steps(rounds: int) -> dict[str, Sample]:
    """The reference on as many images as fit well."""
    everywhere = limits.OPERATIONS * torch.get_num_threads()
    return interleaved(
        {
            "collapsed": step(FAST_IMAGES),
            "reference (PyG)": step(REFERENCE_IMAGES, backend="reference"),
            "reference, torch.compile": step(REFERENCE_IMAGES, backend="reference", compiled=True),
            LIMIT: (limits.multiply_adds_everywhere, everywhere / step_multiply_adds()),
        },
        rounds,
    )


def kernels(rounds: int) -> tuple[dict[str, Sample], dict[str, float]]:
    """One thread's operations, and what share of its multiply-add limit the kernel reaches.

    The limit is measured in turn with the kernel.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    contenders: dict[str, Contender] = {
        "fused multiply-adds": (limits.multiply_adds, limits.OPERATIONS),
        "divisions": (limits.divisions, limits.OPERATIONS),
    }
    for name, case in CASES.items():
        forward, backward = _kernel(case, images=64)
        values = 64 * 1024 * case.hidden
        contenders |= {f"{name} forward": (forward, values), f"{name} backward": (backward, values)}
    samples = interleaved(contenders, rounds)
    torch.set_num_threads(threads)

    limit = samples["fused multiply-adds"].seconds / limits.OPERATIONS
    shares = {}
    for name, case in CASES.items():
        for way, count in (("forward", case.forward), ("backward", case.backward)):
            sample = samples[f"{name} {way}"]
            shares[f"{name} {way}"] = float(np.median(count * limit / sample.seconds * sample.work))
    return samples, shares


def _kernel(case: Case, images: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward alone, and backward alone, of one hidden layer."""
    x, dy = torch.randn(images, 3, 1024), torch.randn(images, 3, 1024)
    a, b = torch.randn(case.hidden, case.features), torch.randn(case.hidden)
    weights = HiddenLayer(
        torch.zeros(3), a, b, torch.randn(case.hidden, 3), torch.zeros(3), case.graph
    )
    return lambda: hidden_layer.forward(x, weights), lambda: hidden_layer.backward(x, weights, dy)
