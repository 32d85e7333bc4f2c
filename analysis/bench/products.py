"""Seconds of the products of pointwise layers with both libraries of `--matmul`.

    python -m analysis.bench.products [--model NAME] [--threads N]

For every shape of a model's pointwise layers, both libraries compute the product and the gradient
of its input in turns, for 8 images. `host.matmul_library` is the rule that follows from the last
line on several processors. A loop of fused multiply-adds shows how much faster a product could be.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vigmpi.host import prepare_process

prepare_process()  # before torch is imported

import h5py  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from analysis.bench import limits  # noqa: E402
from analysis.bench.rounds import Sample, interleaved  # noqa: E402
from vigmpi.host import processor_name  # noqa: E402
from vigmpi.kernels.pointwise import product, product_adjoint  # noqa: E402
from vigmpi.models import MODELS  # noqa: E402
from vigmpi.models.config import MATMULS, ModelConfig  # noqa: E402
from vigmpi.models.model import make_layers  # noqa: E402

_IMAGES = 8
_LIMIT = "fused multiply-adds"


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
    totals = dict.fromkeys((*MATMULS, _LIMIT), 0.0)
    with h5py.File(arguments.output, "a") as file:
        case = f"{arguments.model}, {arguments.threads} threads"
        if case in file:
            del file[case]
        group = file.create_group(case, track_order=True)
        group.attrs.update(processor=processor_name(), threads=arguments.threads, images=_IMAGES)
        for shape, count in shapes(arguments.model).items():
            samples = measure(shape, arguments.rounds)
            data = [sample.seconds for sample in samples.values()]
            dataset = group.create_dataset("x".join(map(str, shape)), data=data)
            flops = [sample.work for sample in samples.values()]
            dataset.attrs.update(unit="s", rows=list(samples), flops=flops, layers=count)
            for name, sample in samples.items():
                totals[name] += count * samples[MATMULS[0]].work * sample.per_unit
            rates = [f"{name} {1e-9 / sample.per_unit:.0f}" for name, sample in samples.items()]
            print(f"{count} x {shape}: {', '.join(rates)} GFLOP/s")
    first, second = MATMULS
    print(
        f"all layers: {second} takes {totals[second] / totals[first]:.2f} times as long as "
        f"{first}, and {totals[second] / totals[_LIMIT]:.2f} times as long as multiply-adds alone"
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


def measure(shape: Shape, rounds: int) -> dict[str, Sample]:
    """Return the seconds and FLOPs of a product and of its input's gradient with each library.

    The last sample is the same for multiply-adds without loads and stores.
    """
    x = torch.randn(_IMAGES, shape.nodes, shape.channels)
    gradient = torch.randn(_IMAGES, shape.nodes, shape.outputs)
    weight = torch.randn(shape.outputs, shape.channels // shape.groups)
    flops = 4 * x.numel() * shape.outputs / shape.groups

    def both(library: str) -> None:
        product(x, weight, shape.groups, library)
        product_adjoint(gradient, weight, shape.groups, library)

    operations = 2 * limits.OPERATIONS * torch.get_num_threads()
    # One after the other: torch's threads would fall asleep during the loop of multiply-adds.
    samples = interleaved({name: (partial(both, name), flops) for name in MATMULS}, rounds)
    limit = {_LIMIT: (limits.multiply_adds_on_all_threads, operations)}
    return samples | interleaved(limit, rounds)


if __name__ == "__main__":
    main()
