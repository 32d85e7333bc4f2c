"""Seconds and memory of a training step of every model, for both backends.

    python -m analysis.bench.models [--models NAME ...] [--images N] [--rounds N] [--output FILE]

A step is a forward and a backward pass of one mini-batch on one thread, at the image size for which
the model was published. The backends take turns, each in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.nn import functional as F

from analysis.bench.against import processor
from vigmpi.host import prepare_process
from vigmpi.models import MODELS, build

BACKENDS = ("reference", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.models",
        description="Time a training step of every model with both backends.",
    )
    parser.add_argument("--models", nargs="+", default=[*MODELS], help="models to time")
    parser.add_argument("--images", type=int, default=8, help="images per step")
    parser.add_argument("--rounds", type=int, default=5, help="number of timed steps")
    parser.add_argument("--output", type=Path, default=Path("models.h5"), help="HDF5 file to write")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, backend = arguments.one
        print(json.dumps(steps(name, backend, arguments.images, arguments.rounds)))
        return
    with h5py.File(arguments.output, "w") as file:
        file.attrs.update(processor=processor(), cores=os.cpu_count(), threads=1)
        file.attrs.update(images=arguments.images)
        for name in arguments.models:
            for backend in BACKENDS:
                command = [sys.executable, "-m", "analysis.bench.models", *sys.argv[1:]]
                output = subprocess.run(
                    [*command, "--one", name, backend], check=True, capture_output=True, text=True
                ).stdout
                seconds, memory_bytes = json.loads(output)
                dataset = file.create_dataset(f"{name}/{backend}", data=seconds)
                dataset.attrs.update(unit="s", added_bytes=memory_bytes)
        print(table(file))
    print(f"\n{arguments.rounds} steps of {arguments.images} images; {processor()}, one thread")
    print(f"results: {arguments.output}")


def steps(name: str, backend: str, num_images: int, rounds: int) -> tuple[list[float], int]:
    """Return the seconds of each step, and the bytes by which memory grew after all imports."""
    prepare_process()
    torch.set_num_threads(1)
    entry = MODELS[name]
    if backend == "reference" and name == "study":
        import torch_geometric.nn  # noqa: F401, PLC0415 (its import is not memory of the model)
    before = peak_bytes()
    model = build(
        name, backend=backend, num_classes=entry.num_classes, image_size=entry.image_size
    ).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(num_images, 3, *entry.image_size, generator=generator)
    labels = torch.arange(num_images) % entry.num_classes
    seconds = []
    for _ in range(rounds + 1):
        model.zero_grad()
        start = time.perf_counter()
        F.cross_entropy(model(images), labels).backward()
        seconds.append(time.perf_counter() - start)
    return seconds[1:], peak_bytes() - before


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(file: h5py.File) -> str:
    """Return a Markdown table of the median seconds and the memory that a step adds."""
    lines = [
        "| model | reference, s | fast, s | reference, GiB | fast, GiB |",
        "|---" * 5 + "|",
    ]
    for name, group in file.items():
        seconds = " | ".join(f"{np.median(group[backend]):.3f}" for backend in BACKENDS)
        memory = " | ".join(
            f"{group[backend].attrs['added_bytes'] / 2**30:.2f}" for backend in BACKENDS
        )
        lines.append(f"| {name} | {seconds} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
