"""Seconds of the products of pointwise layers with both libraries of `--matmul`.

    python -m analysis.bench.products [--model NAME] [--threads N]

For every shape of a model's pointwise layers, both libraries compute the product and the gradient
of its input in turns, for 8 images. `host.matmul_library` is the rule that follows from the last
line on several processors.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from vigmpi.host import prepare_process

prepare_process()  # before torch is imported

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from vigmpi.host import processor_name  # noqa: E402
from vigmpi.kernels.pointwise import product, product_adjoint  # noqa: E402
from vigmpi.models import MODELS  # noqa: E402
from vigmpi.models.config import MATMULS, ModelConfig  # noqa: E402
from vigmpi.models.model import make_layers  # noqa: E402

_IMAGES = 8


class Shape(NamedTuple):
    """Product of rows [images * nodes, channels] with weights [outputs, channels / groups]."""

    nodes: int
    channels: int
    outputs: int
    groups: int


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.products",
        description="Compare the libraries of products on a model's pointwise layers.",
    )
    models = [name for name, entry in MODELS.items() if "matmul" in entry.options]
    parser.add_argument("--model", default="pvig_ti", choices=models, metavar="NAME")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--rounds", type=int, default=21, help="number of timed products")
    parser.add_argument("--output", type=Path, default=Path("products.h5"), help="HDF5 file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    totals = dict.fromkeys(MATMULS, 0.0)
    with h5py.File(arguments.output, "a") as file:
        name = f"{arguments.model}, {arguments.threads} threads"
        if name in file:
            del file[name]
        group = file.create_group(name, track_order=True)
        group.attrs.update(processor=processor_name(), threads=arguments.threads, images=_IMAGES)
        for shape, count in shapes(arguments.model).items():
            seconds = measure(shape, arguments.rounds)
            dataset = group.create_dataset("x".join(map(str, shape)), data=[*seconds.values()])
            dataset.attrs.update(unit="s", libraries=list(seconds), layers=count)
            medians = {library: float(np.median(values)) for library, values in seconds.items()}
            for library, median in medians.items():
                totals[library] += count * median
            rate = 4e-9 * _IMAGES * shape.nodes * shape.channels * shape.outputs / shape.groups
            rates = ", ".join(f"{library} {rate / s:.0f}" for library, s in medians.items())
            print(f"{count} x {shape}: {rates} GFLOP/s")
    first, second = MATMULS
    print(
        f"all layers: {second} takes {totals[second] / totals[first]:.2f} times as long as {first}"
    )


def shapes(model: str) -> Counter[Shape]:
    """Return how many pointwise layers of each shape a model has."""
    config = ModelConfig(MODELS[model].num_classes, MODELS[model].image_size)
    return Counter(_shapes(model, config))


def _shapes(model: str, config: ModelConfig) -> Iterator[Shape]:
    for layer in make_layers(model, config):
        if layer.is_block:
            _, height, width = layer.outputs.shape
            for module in layer.build().modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                    outputs, columns = module.weight.shape[:2]
                    channels = columns * module.groups
                    yield Shape(height * width, channels, outputs, module.groups)


def measure(shape: Shape, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a product and of its input's gradient with each library."""
    x = torch.randn(_IMAGES, shape.nodes, shape.channels)
    gradient = torch.randn(_IMAGES, shape.nodes, shape.outputs)
    weight = torch.randn(shape.outputs, shape.channels // shape.groups)

    def both(library: str) -> None:
        product(x, weight, shape.groups, library)
        product_adjoint(gradient, weight, shape.groups, library)

    seconds: dict[str, list[float]] = {library: [] for library in MATMULS}
    for _ in range(2 + rounds):
        for library, values in seconds.items():
            values.append(_seconds(both, library))
    return {library: values[2:] for library, values in seconds.items()}


def _seconds(function: Callable[[str], None], library: str) -> float:
    start = time.perf_counter()
    function(library)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
