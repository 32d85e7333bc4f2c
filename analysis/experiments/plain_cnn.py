"""Training of a small convolutional network in plain torch, on the images of a ViG's training.

Usage, with about as many multiply-adds per image and the same data as jobs/cifar10.toml:

    python -m analysis.experiments.plain_cnn data/cifar10.h5 [--seed N] [--output FILE]

The network has 1.6 million parameters and four levels, of which the last three have a residual
block or two. It trains in bfloat16 on all cores.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.datasets import open_dataset
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Dataset
from vigmpi.datasets.held_out import HeldOut
from vigmpi.phase import Phase

_BATCH, _EPOCHS, _HELD_OUT = 128, 30, 5000
_LR, _WEIGHT_DECAY, _WARM_UP, _SMOOTHING, _CROP = 4e-3, 0.05, 0.2, 0.1, 4


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.experiments.plain_cnn", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("file", type=Path, help="file written by `vigmpi prepare`")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and images")
    parser.add_argument("--epochs", type=int, default=_EPOCHS, help="passes over the images")
    parser.add_argument(
        "--output", type=Path, default=Path("plain-cnn.h5"), help="HDF5 file to write"
    )
    arguments = parser.parse_args()
    dataset = open_dataset("folder", arguments.file, arguments.seed)
    dataset.prepare(download=False, progress=lambda *_: None)
    dataset.load(images=True, labels=True)
    torch.manual_seed(arguments.seed)
    model = plain_cnn(dataset.num_classes)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    accuracies, minutes = train(model, dataset, arguments.seed, arguments.epochs)
    test = accuracy(model, dataset, Augmentation(False, 0, *dataset.mean_and_std()))
    print(f"test accuracy {test:.2%}")
    with h5py.File(arguments.output, "w") as file:
        file.attrs.update(seed=arguments.seed, threads=torch.get_num_threads(), test_accuracy=test)
        file.attrs["parameters"] = sum(p.numel() for p in model.parameters())
        file["held_out_accuracy"], file["minutes"] = accuracies, minutes


def plain_cnn(num_classes: int) -> nn.Sequential:
    """Return the network, for images whose height and width are multiples of 8."""
    return nn.Sequential(
        _convolution(3, 32),
        *(_convolution(32, 64), nn.MaxPool2d(2), _Residual(64)),
        *(_convolution(64, 128), nn.MaxPool2d(2), _Residual(128), _Residual(128)),
        *(_convolution(128, 192), nn.MaxPool2d(2), _Residual(192)),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(192, num_classes)),
    )


def _convolution(channels: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.GELU())


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _convolution(channels, channels), _convolution(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def train(
    model: nn.Module, dataset: Dataset, seed: int, epochs: int
) -> tuple[list[float], list[float]]:
    """Train on all but the held-out images.

    Returns:
        The accuracy on the held-out images, and the minutes of training so far, after each epoch.
    """
    part = HeldOut(dataset, _HELD_OUT, seed)
    mean, std = dataset.mean_and_std()
    augmented = Augmentation(True, _CROP, mean, std, seed)
    num_images = part.num_images[Phase.TRAIN]
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in model.parameters() if (p.dim() > 1) == decays],
            "weight_decay": decay,
        }
        for decays, decay in ((True, _WEIGHT_DECAY), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, _LR)
    steps = epochs * (num_images // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, steps, pct_start=_WARM_UP)
    accuracies, minutes, seconds = [], [], 0.0
    for epoch in range(epochs):
        start = time.perf_counter()
        order = np.random.default_rng([seed, epoch]).permutation(num_images)
        model.train()
        for first in range(0, num_images - _BATCH + 1, _BATCH):
            samples = order[first : first + _BATCH]
            images = augmented(part.images(Phase.TRAIN, samples), Phase.TRAIN, epoch, samples)
            labels = torch.from_numpy(part.labels(Phase.TRAIN, samples))
            loss = F.cross_entropy(_logits(model, images), labels, label_smoothing=_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds += time.perf_counter() - start
        accuracies.append(accuracy(model, part, augmented))
        minutes.append(seconds / 60)
        print(f"epoch {epoch + 1}: {accuracies[-1]:.2%}, {minutes[-1]:.1f} min", flush=True)
    return accuracies, minutes


def accuracy(model: nn.Module, dataset: Dataset, normalized: Augmentation) -> float:
    """Return the accuracy on the images of the test phase."""
    model.eval()
    correct = 0
    with torch.inference_mode():
        for samples in _batches(dataset.num_images[Phase.TEST]):
            images = normalized(dataset.images(Phase.TEST, samples), Phase.TEST, 0, samples)
            labels = torch.from_numpy(dataset.labels(Phase.TEST, samples))
            correct += int((_logits(model, images).argmax(1) == labels).sum())
    return correct / dataset.num_images[Phase.TEST]


def _logits(model: nn.Module, images: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = model(pixels)
    return logits.float()


def _batches(num_images: int) -> Iterator[np.ndarray]:
    for first in range(0, num_images, _BATCH):
        yield np.arange(first, min(first + _BATCH, num_images))


if __name__ == "__main__":
    main()
