from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vigmpi.errors import InputError
from vigmpi.models import MODELS
from vigmpi.models.config import (
    BACKENDS,
    ModelConfig,
    check_image_size,
    check_options,
    check_precision,
)
from vigmpi.models.layer import Layer, MicroBatch, check_layers


class Model(nn.Module):
    """Consecutive layers of a model: all of them, or those of one pipeline stage.

    Tensors have the names of the complete model's `state_dict`, whichever layers are built.

    Args:
        layers: the layers to build.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        check_layers(layers)
        self.layers = layers
        self.layer_modules = nn.ModuleList(layer.build() for layer in layers)
        names = [self._public_name(name) for name in super().state_dict()]
        if len(set(names)) < len(names):
            raise ValueError("several layers have a tensor of the same name")

    def forward(self, images: Tensor, micro_batch: MicroBatch | None = None) -> Tensor:
        """Map the first layer's input to the last layer's output.

        Args:
            images: [images, *shape of the first layer's input].
            micro_batch: samples 0, 1, 2, ... of step 0 by default.
        """
        micro_batch = micro_batch or MicroBatch(np.arange(len(images)), 0)
        features = self.layers[0].inputs.conform(images)
        for layer, module in zip(self.layers, self.layer_modules, strict=True):
            features = layer.outputs.conform(module(features, micro_batch))
        return features

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield self._public_name(name), parameter

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and values of all parameters except fixed tables."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {self._public_name(name): tensor for name, tensor in state.items()}

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        own = {self._public_name(name): name for name in super().state_dict()}
        renamed = {own.get(name, name): tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(renamed, *args, **kwargs)

    def _public_name(self, name: str) -> str:
        _, index, rest = name.split(".", 2)
        return self.layers[int(index)].prefix + rest


def make_layers(
    name: str,
    config: ModelConfig,
    *,
    backend: str = "fast",
    seed: int = 0,
    graph: object = None,
    recompute: bool = False,
) -> list[Layer]:
    """Return the layers of the model that `MODELS` has under this name.

    Args:
        backend: "fast", or "reference" for the backend that tests compare with.
        seed: seed of the initial weights and of random choices in training.
        graph: part of an image's graph that this rank has, for a divisible model; None for all.
        recompute: whether a divisible model saves the inputs of its blocks only.

    Raises:
        InputError: if the model does not take an option or the image size, or the backend not the
            precision.
        ValueError: if there is no such backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, not {backend!r}")
    check_options(name, asdict(config))
    check_image_size(name, config.image_size)
    check_precision(config.precision, backend)
    if config.matmul == "onednn" and not torch.backends.mkldnn.is_available():
        raise InputError(
            "library not available: --matmul onednn with a torch built without oneDNN. Use "
            "--matmul blas."
        )
    make: Callable[..., list[Layer]] = resolve_name(MODELS[name].layers)
    special = {"graph": graph, "recompute": recompute} if MODELS[name].divisible else {}
    layers = make(config, backend=backend, seed=seed, **special)
    check_layers(layers)
    return layers


def make_model(name: str, config: ModelConfig, *, backend: str = "fast", seed: int = 0) -> Model:
    """Return the complete model of these layers, as `make_layers` does."""
    return Model(make_layers(name, config, backend=backend, seed=seed))
