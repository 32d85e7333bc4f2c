"""Tables and HDF5 file of the benchmark's results."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from analysis.bench.growth import Growth
from analysis.bench.rounds import Sample


@dataclass(frozen=True)
class Results:
    """Results of one run of the benchmark, by contender or case.

    Attributes:
        steps: steps of the model on one rank with all threads.
        operations: arithmetic operations, and kernels per hidden value, on one thread.
        kernel_shares: fraction of the multiply-add limit that each kernel reaches.
        pipelines: steps on two single-threaded ranks.
        bounds: ratio of GPipe's closed form to the measured time in each round, by number of
            chunks.
        growth: fast step over batch size, image side and hidden width.
    """

    steps: Mapping[str, Sample]
    operations: Mapping[str, Sample]
    kernel_shares: Mapping[str, float]
    pipelines: Mapping[str, Sample]
    bounds: Mapping[str, list[float]]
    growth: Mapping[str, Growth]


def tables(results: Results) -> str:
    """Return Markdown tables of the medians and of their ratios to the first contender."""
    lines = [f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", ""]
    for title, samples in (
        ("one rank, all cores", results.steps),
        ("two ranks, one thread each", results.pipelines),
    ):
        first = next(iter(samples.values())).per_unit
        lines += [f"| {title} | images | ms per image | ratio |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {s.work:.0f} | {1e3 * s.per_unit:.2f} | {s.per_unit / first:.2f} |"
            for name, s in samples.items()
        ]
        lines.append("")
    lines += ["| fast step, one rank | images | ms per image | peak, MiB |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {g.sample.work:.0f} | {1e3 * g.sample.per_unit:.2f} "
        f"| {g.peak_bytes / 2**20:.0f} |"
        for name, g in results.growth.items()
    ]
    lines += ["", "| operation, one thread | ns |", "|---|---|"]
    lines += [f"| {name} | {1e9 * s.per_unit:.3f} |" for name, s in results.operations.items()]
    lines += ["", "| kernel, one thread | share of the multiply-add limit |", "|---|---|"]
    lines += [f"| {name} | {share:.0%} |" for name, share in results.kernel_shares.items()]
    lines += ["", "| 2 stages | closed form / measured |", "|---|---|"]
    lines += [f"| {n} chunks | {np.median(shares):.1%} |" for n, shares in results.bounds.items()]
    return "\n".join(lines)


def write(path: Path, results: Results) -> None:
    """Write the seconds of each contender's rounds as datasets and the shares as attributes."""
    with h5py.File(path, "w") as file:
        file.attrs.update(machine=platform.platform(), cores=os.cpu_count())
        growth = {name: case.sample for name, case in results.growth.items()}
        for group, samples in (
            ("steps", results.steps),
            ("operations", results.operations),
            ("pipelines", results.pipelines),
            ("growth", growth),
        ):
            for name, sample in samples.items():
                dataset = file.create_dataset(f"{group}/{name}", data=sample.seconds)
                dataset.attrs.update(unit="s", work=sample.work)
        for name, case in results.growth.items():
            file[f"growth/{name}"].attrs["peak_bytes"] = case.peak_bytes
        file.create_group("kernel_shares").attrs.update(results.kernel_shares)
        for chunks, shares in results.bounds.items():
            file[f"bounds/{chunks} chunks"] = shares
