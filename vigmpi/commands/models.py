"""`vigmpi models`: the models, and the layers of one of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vigmpi.cli.config import ModelsConfig
from vigmpi.models import MODELS
from vigmpi.models.allocation import refusing_what_cannot_be_allocated
from vigmpi.models.config import ModelConfig
from vigmpi.models.layer import Boundary, Layer, MicroBatch
from vigmpi.models.model import make_layers
from vigmpi.standard_streams import print_result


def models(config: ModelsConfig) -> None:
    """Print a table of all models, or of the layers of one.

    Raises:
        InputError: if the model does not take an option or the image size.
    """
    _print_table(_models() if config.name is None else _layers(config.name, config))


def _models() -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("model", "parameters", "classes", "image size", "multiple of", "options", "")
    ]
    for name, entry in MODELS.items():
        layers = make_layers(name, ModelConfig(entry.num_classes, entry.image_size))
        with torch.device("meta"):  # parameters are counted without memory for them
            parameters = sum(_num_parameters(layer.build()) for layer in layers)
        options = " ".join(f"--{option.replace('_', '-')}" for option in entry.options)
        rows.append(
            (
                name,
                f"{parameters:,}",
                f"{entry.num_classes}",
                _by(entry.image_size),
                f"{entry.multiple}",
                options,
                entry.description,
            )
        )
    return rows


def _layers(name: str, config: ModelsConfig) -> list[Sequence[str]]:
    entry = MODELS[name]
    image_size = config.image_size or entry.image_size
    model_config = ModelConfig(entry.num_classes, image_size, conv=config.conv)
    with refusing_what_cannot_be_allocated(
        f"--image-size {_by(image_size)} on one rank", "a smaller --image-size"
    ):
        return _rows(make_layers(name, model_config, backend="reference"))


def _rows(layers: list[Layer]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("layer", "input", "output", "parameters", "multiply-adds", "cut behind")
    ]
    total = np.zeros(2, dtype=np.int64)
    features = torch.zeros(1, *layers[0].inputs.shape)
    for layer in layers:
        module = layer.build().eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            output = module(layer.inputs.conform(features), MicroBatch(np.arange(1), 0))
        numbers = _num_parameters(module), counter.get_total_flops() // 2
        cut = "yes" if layer.cut and layer is not layers[-1] else "no"
        shapes = _shape(layer.inputs), _shape(layer.outputs)
        rows.append((layer.name, *shapes, *(f"{number:,}" for number in numbers), cut))
        total += numbers
        features = output
    rows.append(("total", "", "", *(f"{number:,}" for number in total), ""))
    return rows


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shape(boundary: Boundary) -> str:
    return _by(boundary.shape)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows; columns of numbers and sizes are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    is_number = [column[1][:1].isdecimal() for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    print_result("\n".join(lines))
