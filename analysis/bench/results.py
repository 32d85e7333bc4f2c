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
    """All that one run of the benchmark found.

    Attributes:
        steps: the model's paths on one rank, all threads.
        operations: one thread's, for one hidden value of the kernel.
        kernel_shares: of the multiply-add limit.
        pipelines: two ranks of one thread.
        bounds: chunks to GPipe's closed form over the measured time, round by round.
        growth: of the collapsed step.
    """

    steps: Mapping[str, Sample]
    operations: Mapping[str, Sample]
    kernel_shares: Mapping[str, float]
    pipelines: Mapping[str, Sample]
    bounds: Mapping[str, list[float]]
    growth: Mapping[str, Growth]


def tables(found: Results) -> str:
    """Markdown: medians, and each contender's time over the first one's."""
    lines = [f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", ""]
    for title, samples in (
        ("one rank, all cores", found.steps),
        ("two ranks, one thread each", found.pipelines),
    ):
        first = next(iter(samples.values())).per_unit
        lines += [f"| {title} | images | ms an image | ratio |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {s.work:.0f} | {1e3 * s.per_unit:.2f} | {s.per_unit / first:.2f} |"
            for name, s in samples.items()
        ]
        lines.append("")
    lines += ["| growth, one rank | images | ms an image | peak, MiB |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {g.sample.work:.0f} | {1e3 * g.sample.per_unit:.2f} "
        f"| {g.peak_bytes / 2**20:.0f} |"
        for name, g in found.growth.items()
    ]
    lines += ["", "| operation, one thread | ns |", "|---|---|"]
    lines += [f"| {name} | {1e9 * s.per_unit:.3f} |" for name, s in found.operations.items()]
    lines += ["", "| share of the multiply-add limit | |", "|---|---|"]
    lines += [f"| {name} | {share:.0%} |" for name, share in found.kernel_shares.items()]
    lines += ["", "| closed form / measured, 2 stages | |", "|---|---|"]
    lines += [f"| {n} chunks | {np.median(shares):.1%} |" for n, shares in found.bounds.items()]
    return "\n".join(lines)


def write(path: Path, found: Results) -> None:
    """A dataset of seconds a round for each contender, and the shares as attributes."""
    with h5py.File(path, "w") as file:
        file.attrs.update(machine=platform.platform(), cores=os.cpu_count())
        growth = {name: case.sample for name, case in found.growth.items()}
        for group, samples in (
            ("steps", found.steps),
            ("operations", found.operations),
            ("pipelines", found.pipelines),
            ("growth", growth),
        ):
            for name, sample in samples.items():
                dataset = file.create_dataset(f"{group}/{name}", data=sample.seconds)
                dataset.attrs.update(unit="s", work=sample.work)
        for name, case in found.growth.items():
            file[f"growth/{name}"].attrs["peak_bytes"] = case.peak_bytes
        file.create_group("kernel_shares").attrs.update(found.kernel_shares)
        for chunks, shares in found.bounds.items():
            file[f"bounds/{chunks} chunks"] = shares
