"""Model whose layers sleep, so that long pipelines take their true time on few cores."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vigmpi.models.layer import Boundary, Layer, MicroBatch


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, forward_s: float, backward_s: float
    ) -> Tensor:
        time.sleep(forward_s)
        ctx.backward_s, ctx.weight = backward_s, weight
        return features.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        time.sleep(ctx.backward_s)
        return gradient, torch.zeros_like(ctx.weight), None, None


class SleepingLayer(nn.Module):
    """Layer that returns its input after a time, with a weight so that all stages go backward."""

    def __init__(self, forward_s: float, backward_s: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self._seconds = forward_s, backward_s

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        return _Sleep.apply(features, self.weight, *self._seconds)


class Logits(nn.Module):
    """Head that takes logits from the first pixels."""

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        return features.flatten(1)[:, :10]


def sleeping_layers(seconds: Sequence[tuple[float, float]], image: tuple[int, ...]) -> list[Layer]:
    """Return one block per pair of forward and backward seconds, and a head that takes no time.

    Args:
        image: shape of an image, with at least 10 values.
    """
    pixels, logits = Boundary(image), Boundary((10,))
    blocks = [
        Layer(
            f"block {i}",
            partial(SleepingLayer, *pair),
            pixels,
            pixels,
            f"blocks.{i}.",
            is_block=True,
        )
        for i, pair in enumerate(seconds)
    ]
    return [*blocks, Layer("head", Logits, pixels, logits)]
