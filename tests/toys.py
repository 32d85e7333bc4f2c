"""A model, a schedule, a data set and a timing column, registered without a change to vigmpi.

`python -m tests.toys` runs vigmpi with them; see `tests/cli/test_toys.py`.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.two_in_flight import two_in_flight
from vigmpi.__main__ import run
from vigmpi.datasets import DATASETS
from vigmpi.datasets.dataset import Dataset, Images, Indices, Labels
from vigmpi.host import resident_bytes
from vigmpi.models import MODELS, ModelEntry
from vigmpi.models.config import ModelConfig
from vigmpi.models.layer import Boundary, Layer, MicroBatch
from vigmpi.models.normalization import MicroBatchNorm
from vigmpi.phase import Phase
from vigmpi.record.timings import TIMINGS, Timing
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.action import Kind


class Stem(nn.Module):
    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = MicroBatchNorm(16, pixels)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        return F.gelu(self.norm(self.conv(features)))


class Block(nn.Module):
    """Residual convolution that leaves out a third of the samples, others in each step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm: nn.Module = nn.Identity()

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:
        branch = F.gelu(self.norm(self.conv(features)))
        if self.training:
            kept = torch.from_numpy((micro_batch.samples + micro_batch.step) % 3 > 0)
            branch = branch * kept.to(branch)[:, None, None, None]
        return features + branch


class NormBlock(Block):
    def __init__(self, width: int, pixels: int) -> None:
        super().__init__(width)
        self.norm = MicroBatchNorm(width, pixels)


class Downsampling(nn.Module):
    """Layer without parameters: averages 2x2 pixels and appends their negatives as channels."""

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        pooled = F.avg_pool2d(features, 2)
        return torch.cat([pooled, -pooled], dim=1)


class Head(nn.Module):
    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        return self.linear(features.mean(dim=(2, 3)))


def toy_layers(config: ModelConfig, *, backend: str, seed: int) -> list[Layer]:  # noqa: ARG001
    """Return a convolution stem, `config.blocks` blocks of two widths, and a head.

    Features are channels-last in the first half. The second half has no batch norm.
    """
    height, width = config.image_size
    half, pixels = config.blocks // 2, height * width
    images = Boundary((3, height, width))
    wide = Boundary((16, height // 2, width // 2), channels_last=True)
    deep = Boundary((32, height // 4, width // 4))

    def layer(name: str, inputs: Boundary, outputs: Boundary, make: type, *sizes: Any) -> Layer:
        def build() -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(seed + sum(name.encode()))
                return make(*sizes)

        prefix = name.replace(" ", "_") + "."
        return Layer(name, build, inputs, outputs, prefix, name.startswith("block"))

    return [
        layer("stem", images, wide, Stem, pixels // 4),
        *(layer(f"block {i}", wide, wide, NormBlock, 16, pixels // 4) for i in range(half)),
        layer("downsampling", wide, deep, Downsampling),
        *(layer(f"block {i}", deep, deep, Block, 32) for i in range(half, config.blocks)),
        layer("head", deep, Boundary((config.num_classes,)), Head, 32, config.num_classes),
    ]


class Checkers(Dataset):
    """Noise on checks of a size that depends on the class."""

    name = "toy"
    details = "noisy checks"
    class_names = ("small", "medium", "large")
    image_size = (96, 64)
    num_images = {Phase.TRAIN: 1000, Phase.TEST: 50}  # noqa: RUF012

    def load(self, *, images: bool, labels: bool) -> None:  # noqa: ARG002
        # The set-up of a run is the first moment after all imports.
        (self._data_dir / f"{os.getpid()}.rss").write_text(str(resident_bytes()))

    def images(self, phase: Phase, samples: Indices) -> Images:
        random = np.random.default_rng([self._seed, list(Phase).index(phase)])
        side = 2 ** (1 + self.labels(phase, samples))[:, None, None]
        row, column = np.mgrid[: self.image_size[0], : self.image_size[1]]
        checks = (row // side + column // side) % 2
        noise = random.random((1050, 1, 1, 1))[samples] / 2
        return (np.repeat(checks[:, None], 3, axis=1) / 2 + noise).astype(np.float32)

    def labels(self, phase: Phase, samples: Indices) -> Labels:  # noqa: ARG002
        return samples % 3


MODELS["toy"] = ModelEntry("tests.toys:toy_layers", "toy", ("blocks",))
SCHEDULES["toy"] = two_in_flight
DATASETS["toy"] = "tests.toys:Checkers"
TIMINGS["longest_forward_s"] = Timing(
    "longest forward pass of a micro-batch",
    lambda spans: max(span.seconds for span in spans if span.kind == Kind.FORWARD),
)

if __name__ == "__main__":
    run()
