"""Benchmark of `--split measured` against the best of all splits, by the times of the stages.

    python -m analysis.bench.splits [--models NAME ...] [--images N] [--rounds N] [--output FILE]

Every stage runs alone, on one thread, forward and backward of one micro-batch. The best split is
found by trying all of them on times of the layers that were measured independently of the program's
own. Beside it stands the split with even numbers of blocks.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from vigmpi.host import prepare_process, processor_name
from vigmpi.layout.split import split_by_time, split_layers
from vigmpi.models.config import ModelConfig
from vigmpi.models.layer import Layer, MicroBatch
from vigmpi.models.model import Model, make_layers
from vigmpi.pipeline.layer_times import layer_times, run_once
from vigmpi.pipeline.stage import Stage

STAGES = (2, 3, 4)
SIZE = (224, 224)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.splits",
        description="Compare measured splits with the best of all splits.",
    )
    parser.add_argument("--models", nargs="+", default=["pvig_ti", "vig_s"], help="models to split")
    parser.add_argument("--images", type=int, default=4, help="images per micro-batch")
    parser.add_argument("--rounds", type=int, default=5, help="number of timed passes")
    parser.add_argument("--output", type=Path, default=Path("splits.h5"), help="HDF5 file to write")
    arguments = parser.parse_args()
    prepare_process()
    torch.set_num_threads(1)
    with h5py.File(arguments.output, "w") as file:
        file.attrs.update(processor=processor_name(), cores=os.cpu_count(), threads=1)
        file.attrs.update(images=arguments.images)
        for name in arguments.models:
            time_model(file.create_group(name), name, arguments.images, arguments.rounds)
        print(table(file))
    print(
        f"\n{arguments.rounds} rounds; {processor_name()}, one thread; results: {arguments.output}"
    )


def time_model(group: h5py.Group, name: str, num_images: int, rounds: int) -> None:
    """Time the stages of the measured, the best and the even split into 2, 3 and 4 stages."""
    layers = make_layers(name, ModelConfig(1000, SIZE))
    chosen_s = layer_times(layers, num_images, training=True).sum(axis=1)
    independent = [layer_times(layers, num_images, training=True) for _ in range(rounds)]
    layer_s = np.median(np.sum(independent, axis=2), axis=0)
    group.attrs["layers"] = [layer.name for layer in layers]
    group.create_dataset("measured", data=chosen_s).attrs["unit"] = "s"
    group.create_dataset("independent", data=np.sum(independent, axis=2)).attrs["unit"] = "s"
    splits = {
        stages: {
            "measured": split_by_time(layers, stages, chosen_s.tolist()),
            "best": min(all_splits(len(layers), stages), key=lambda s: slowest(s, layer_s)),
            "even": split_layers(layers, stages),
        }
        for stages in STAGES
    }
    ranges = sorted(
        {r for named in splits.values() for split in named.values() for r in split}, key=str
    )
    seconds = dict(zip(ranges, stage_times(layers, ranges, num_images, rounds), strict=True))
    for stages, named in splits.items():
        for kind, split in named.items():
            times = np.array([seconds[r] for r in split]).T
            dataset = group.create_dataset(f"{stages} stages/{kind}", data=times)
            dataset.attrs.update(
                unit="s", axes="round, stage", first_layers=[r.start for r in split]
            )


def all_splits(num_layers: int, stages: int) -> Iterator[list[range]]:
    for cuts in combinations(range(1, num_layers), stages - 1):
        yield [range(*ends) for ends in pairwise((0, *cuts, num_layers))]


def slowest(split: Sequence[range], layer_s: NDArray[np.float64]) -> float:
    return max(float(layer_s[r.start : r.stop].sum()) for r in split)


def stage_times(
    layers: list[Layer], ranges: Sequence[range], num_images: int, rounds: int
) -> NDArray[np.float64]:
    """Return the seconds of each stage's forward and backward, [ranges, rounds].

    The stages take turns, so that a slow period of the machine meets all of them.
    """
    micro_batch = MicroBatch(np.arange(num_images), 0)
    seconds = np.zeros((len(ranges), rounds + 1))
    for column in seconds.T:
        for row, own in enumerate(ranges):
            stage = Stage(Model(layers[own.start : own.stop]).train(), first=own.start == 0)
            inputs = layers[own.start].inputs
            features = inputs.conform(torch.rand(num_images, *inputs.shape))
            for _ in range(2):  # the first pass allocates memory and gradients
                run_once(stage, features, micro_batch, training=True)
            column[row] = stage.layer_seconds.sum()
    return seconds[:, 1:]


def table(file: h5py.File) -> str:
    """Return a Markdown table of the slowest stage of each split."""
    lines = [
        "| model | stages | slowest stage, s | measured / best | even / best |",
        "|---" * 5 + "|",
    ]
    for name, group in file.items():
        for stages in STAGES:
            measured, best, even = (
                np.median(group[f"{stages} stages/{kind}"], axis=0).max()
                for kind in ("measured", "best", "even")
            )
            ratios = f"{measured / best:.3f} | {even / best:.3f}"
            lines.append(f"| {name} | {stages} | {measured:.3f} | {ratios} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
