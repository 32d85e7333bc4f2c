"""One rank: the model's paths, its growth, and the kernel against the machine's limit."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from analysis.bench.limits import multiply_adds_per_s
from analysis.bench.rounds import Sample, interleaved
from vigmpi.kernels.autograd import hidden_layer
from vigmpi.kernels.layer import Layer
from vigmpi.model import ViG, ViGConfig
from vigmpi.model.graph import PixelLattice

COLLAPSED_IMAGES, REFERENCE_IMAGES = 200, 10

Contender = tuple[Callable[[], object], float]


def _step(
    images: int, config: ViGConfig = ViGConfig(), path: str = "collapsed", *, compiled: bool = False
) -> Contender:
    """Forward and backward of the whole model."""
    model = ViG(config, path=path)
    call = torch.compile(model) if compiled else model
    x = torch.rand(images, config.channels, *config.image_size)
    labels = torch.arange(images) % config.classes

    def step() -> None:
        F.cross_entropy(call(x), labels).backward()

    return step, images


def steps(rounds: int) -> dict[str, Sample]:
    """The reference on as many images as fit well."""
    return interleaved(
        {
            "collapsed": _step(COLLAPSED_IMAGES),
            "reference (PyG)": _step(REFERENCE_IMAGES, path="reference"),
            "reference, torch.compile": _step(REFERENCE_IMAGES, path="reference", compiled=True),
        },
        rounds,
    )


def growth(rounds: int) -> dict[str, Sample]:
    """The collapsed step against batch size, image side and hidden width."""
    contenders = {f"{images} images": _step(images) for images in (100, 400, 1000)}
    for side in (64, 128, 224):
        images = max(1, 100 * 1024 // side**2)
        contenders[f"side {side}"] = _step(images, ViGConfig(image_size=(side, side)))
    for width in (128, 512):
        config = ViGConfig(grapher_hidden=width, ffn_hidden=2 * width)
        contenders[f"hidden {width}"] = _step(100, config)
    return interleaved(contenders, rounds)


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


def kernel_shares(rounds: int) -> dict[str, float]:
    """How much of the multiply-add limit the kernel reaches, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shares = {}
    for name, case in (
        ("grapher", Case(256, PixelLattice(32, 32))),
        ("ffn", Case(512, None)),
    ):
        ahead, back = _kernel(case, images=32)
        values = 32 * 1024 * case.hidden
        samples = interleaved({"forward": (ahead, values), "backward": (back, values)}, rounds)
        for way, count in (("forward", case.forward), ("backward", case.backward)):
            shares[f"{name} {way}"] = count / multiply_adds_per_s() / samples[way].per_unit
    torch.set_num_threads(threads)
    return shares


def _kernel(case: Case, images: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward alone, and backward alone, of one hidden case."""
    x = torch.randn(images, 3, 1024, requires_grad=True)
    a = torch.randn(case.hidden, case.features, requires_grad=True)
    b = torch.randn(case.hidden, requires_grad=True)
    v = torch.randn(case.hidden, 3, requires_grad=True)
    shift, c, dy = torch.zeros(3), torch.zeros(3), torch.randn(images, 3, 1024)

    def forward() -> torch.Tensor:
        return hidden_layer(x, Layer(shift, a, b, v, c, case.graph))

    y = forward()
    return forward, lambda: y.backward(dy, retain_graph=True)
