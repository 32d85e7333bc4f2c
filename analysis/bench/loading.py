"""Benchmark of data loading against torch's DataLoader.

    python -m analysis.bench.loading FILE

Measures how many shuffled images per second one rank loads and how many a torch DataLoader loads,
with one worker per core, from torchvision's CIFAR10 with the same images in memory. Also measures
the fraction of its training steps that a run spends waiting for data.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from analysis.bench.rounds import interleaved
from analysis.bench.sequential import Contender
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.layout.layout import Layout
from vigmpi.models.layer import Boundary
from vigmpi.phase import Phase
from vigmpi.pipeline.loader import Loader, LoaderConfig
from vigmpi.position import Position

_MINI_BATCHES = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.loading",
        description="Time data loading against torch's DataLoader.",
    )
    parser.add_argument("file", type=Path, help="file written by `vigmpi prepare`")
    parser.add_argument("--rounds", type=int, default=5, help="number of timed rounds")
    parser.add_argument(
        "--batch-size", type=int, default=1000, help="number of images per mini-batch"
    )
    parser.add_argument("--steps", type=int, default=5, help="number of timed training steps")
    arguments = parser.parse_args()
    dataset = PreparedFile(arguments.file, "folder")
    dataset.load(images=True, labels=True)
    samples = interleaved(
        {
            "vigmpi, 1 thread": _vigmpi(dataset, arguments.batch_size),
            f"DataLoader, {os.cpu_count()} workers": _torch(dataset, arguments.batch_size),
        },
        arguments.rounds,
    )
    first = next(iter(samples.values())).per_unit
    print("| shuffled loading | images/s | ratio |\n|---|---|---|")
    for name, sample in samples.items():
        print(f"| {name} | {1 / sample.per_unit:,.0f} | {sample.per_unit / first:.2f} |")
    fraction = _waiting_fraction(arguments.file, arguments.batch_size, arguments.steps)
    print(f"\nwaiting for data: {fraction:.3%} of the training time")


def _vigmpi(dataset: PreparedFile, batch_size: int) -> Contender:
    """Load like the only rank of a run, but without computing in the meantime."""
    inputs = Boundary((3, *dataset.image_size), torch.float32)
    config = LoaderConfig(batch_size, 0, {Phase.TRAIN: _MINI_BATCHES, Phase.TEST: 1})
    loader = Loader(dataset, Layout(1, 1, 1), 0, inputs, config)

    def run() -> None:
        for pending in loader.batches(Position()):
            pending.result()

    return run, min(dataset.num_images[Phase.TRAIN], _MINI_BATCHES * batch_size)


def _torch(dataset: PreparedFile, batch_size: int) -> Contender:
    datasets = torchvision_datasets()
    from torchvision.transforms import ToTensor  # noqa: PLC0415 (may fail without the line above)

    samples = np.arange(dataset.num_images[Phase.TRAIN])

    class InMemory(datasets.CIFAR10):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pixels = np.round(dataset.images(Phase.TRAIN, samples) * 255).astype(np.uint8)
            self.data = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            self.targets = dataset.labels(Phase.TRAIN, samples).tolist()
            self.transform, self.target_transform = ToTensor(), None

    num_images = min(len(samples), _MINI_BATCHES * batch_size)
    loader: DataLoader = DataLoader(
        Subset(InMemory(), range(num_images)),
        batch_size,
        shuffle=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
    )

    def run() -> None:
        for _ in loader:
            pass

    return run, num_images


def _waiting_fraction(prepared: Path, batch_size: int, steps: int) -> float:
    """Return the fraction of its training time, without warm-up, that one rank waits for data."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run.h5"
        options = ["--batch-size", str(batch_size), "--epochs", "1", "--test-steps", "1"]
        options += ["--steps", str(steps + 1), "--dataset", "folder", "--data-dir", str(prepared)]
        command = [sys.executable, "-m", "vigmpi", *options, "--record", str(record)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with h5py.File(record) as file:
            counted = (file["steps/phase"][:] == 0) & (file["steps/warm_up"][:] == 0)
            data, step = (file[f"timings/{name}"][counted].sum() for name in ("data_s", "step_s"))
    return float(data / step)


if __name__ == "__main__":
    main()
