"""Loading, beside torch's own: `python -m analysis.bench.loading FILE`.

How many images a second one rank loads, shuffled, beside a torch DataLoader with as many workers
as cores on torchvision's CIFAR10 that holds the same images in memory; and what share of its
training steps a run spends on waiting for them.
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
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.order import mini_batches, shuffled
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.datasets.torchvision_import import torchvision_datasets
from vigmpi.layout.layout import Layout
from vigmpi.phase import Phase
from vigmpi.pipeline.loader import Loader

_MINI_BATCHES = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.loading", description="Time loading beside torch's own."
    )
    parser.add_argument("file", type=Path, help="that data/prepare.py wrote")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contender")
    parser.add_argument("--batch-size", type=int, default=1000, help="images of a mini-batch")
    parser.add_argument("--steps", type=int, default=5, help="training steps of the run")
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
    print("| loading, shuffled | images/s | ratio |\n|---|---|---|")
    for name, sample in samples.items():
        print(f"| {name} | {1 / sample.per_unit:,.0f} | {sample.per_unit / first:.2f} |")
    share = _waiting(arguments.file, arguments.batch_size, arguments.steps)
    print(f"\nof a training step's time, waiting for data: {share:.3%}")


def _vigmpi(dataset: PreparedFile, batch_size: int) -> Contender:
    """As the one rank of a run does it, but that nothing is computed meanwhile."""
    loader = Loader(
        dataset, Augmentation(), Layout(1, 1, 1), 0, torch.float32, first=True, last=True
    )
    batches = list(
        mini_batches(shuffled(dataset.samples[Phase.TRAIN], 0, 0), batch_size, _MINI_BATCHES)
    )

    def run() -> None:
        for _, batch in loader.prefetch(Phase.TRAIN, 0, batches):
            batch.result()

    return run, sum(map(len, batches))


def _torch(dataset: PreparedFile, batch_size: int) -> Contender:
    datasets = torchvision_datasets()
    from torchvision.transforms import ToTensor  # noqa: PLC0415 (may fail before the line above)

    every = np.arange(dataset.samples[Phase.TRAIN])

    class InMemory(datasets.CIFAR10):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pixels = np.round(dataset.images(Phase.TRAIN, every) * 255).astype(np.uint8)
            self.data = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
            self.targets = dataset.labels(Phase.TRAIN, every).tolist()
            self.transform, self.target_transform = ToTensor(), None

    images = min(len(every), _MINI_BATCHES * batch_size)
    loader: DataLoader = DataLoader(
        Subset(InMemory(), range(images)),
        batch_size,
        shuffle=True,
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
    )

    def run() -> None:
        for _ in loader:
            pass

    return run, images


def _waiting(file: Path, batch_size: int, steps: int) -> float:
    """Share of the training steps of a run on one rank, warm-up left out."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "run.h5"
        length = ["--batch-size", str(batch_size), "--epochs", "1", "--test-steps", "1"]
        length += ["--steps", str(steps + 1), "--dataset", "folder", "--data-dir", str(file)]
        command = [sys.executable, "-m", "vigmpi", *length, "--record", str(record)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with h5py.File(record) as found:
            counted = (found["steps/phase"][:] == 0) & (found["steps/warm_up"][:] == 0)
            data, step = (found[f"timings/{name}"][counted].sum() for name in ("data_s", "step_s"))
    return float(data / step)


if __name__ == "__main__":
    main()
