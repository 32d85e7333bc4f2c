"""Plain configuration of a model, and its check."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vigmpi.errors import InputError
from vigmpi.models import MODELS

BACKENDS = ("fast", "reference")
READOUTS = ("sum", "mean")
CONVOLUTIONS = ("mr", "edge", "sage", "gin")
PRECISIONS = ("fp32", "bf16")
MATMULS = ("blas", "onednn")

STUDY_READOUT = "sum"  # of the study's own code


@dataclass(frozen=True)
class ModelConfig:
    """Plain configuration of a model, from which an entry of `MODELS` makes its layers.

    A model takes those of the options that its entry names; the others have their defaults.

    Attributes:
        num_classes: number of logits.
        image_size: height and width, in pixels.
        blocks: number of blocks.
        readout: pooling of the nodes in the head, one of `READOUTS`.
        conv: graph convolution, one of `CONVOLUTIONS`.
        drop_path: probability with which the last block leaves out a branch of a sample in
            training; it grows linearly from 0 over the blocks.
        precision: type of features and of products with weights, one of `PRECISIONS`. Weights,
            statistics, the search for neighbours, head, loss and sums of gradients are fp32.
        matmul: library of the fast backend's fp32 products, one of `MATMULS`.
    """

    num_classes: int = 10
    image_size: tuple[int, int] = (32, 32)
    blocks: int = 8
    readout: str = "mean"
    conv: str = "mr"
    drop_path: float = 0.0
    precision: str = "fp32"
    matmul: str = "blas"


OPTIONS = tuple(field.name for field in fields(ModelConfig)[2:])


def check_options(model: str, options: Mapping[str, Any]) -> None:
    """Raise InputError if an option that the model does not take differs from its default."""
    for name in OPTIONS:
        if options[name] != getattr(ModelConfig, name) and name not in MODELS[model].options:
            takers = ", ".join(key for key, entry in MODELS.items() if name in entry.options)
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"option of another model: {flag} {options[name]} for --model {model}. Omit "
                f"{flag}, or use one of these models: {takers}."
            )


def check_precision(precision: str, backend: str) -> None:
    """Raise InputError if the backend does not compute with this precision."""
    if precision != "fp32" and backend != "fast":
        raise InputError(
            f"precision of another backend: --precision {precision} for --backend {backend}. Use "
            f"--backend fast, or --precision fp32."
        )


def check_image_size(model: str, image_size: tuple[int, int]) -> None:
    """Raise InputError if the height or width is not a multiple of what the model needs."""
    multiple = MODELS[model].multiple
    if any(side % multiple for side in image_size):
        smaller = [max(1, side // multiple) * multiple for side in image_size]
        larger = [-(-side // multiple) * multiple for side in image_size]
        sizes = ["x".join(map(str, sides)) for sides in (smaller, larger)]
        height, width = image_size
        raise InputError(
            f"image size does not fit: {height}x{width} pixels for --model {model}. Use images "
            f"whose height and width are multiples of {multiple}, for example "
            f"{' or '.join(dict.fromkeys(sizes))}."
        )
