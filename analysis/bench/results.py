import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from analysis.bench.rounds import Sample


@dataclass(frozen=True)
class Results:
    """All that one run of the benchmark found.

    Attributes:
        steps: the model's paths on one rank, all threads.
        kernel_shares: of the multiply-add limit, one thread.
        pipelines: two ranks of one thread.
        bounds: chunks to GPipe's closed form over the measured time, round by round.
        growth: of the collapsed step.
    """

    steps: Mapping[str, Sample]
    kernel_shares: Mapping[str, float]
    pipelines: Mapping[str, Sample]
    bounds: Mapping[str, list[float]]
    growth: Mapping[str, Sample]


def tables(found: Results) -> str:
    """Markdown: medians, and each contender's time over the first one's."""
    lines = [f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", ""]
    for title, samples in (
        ("one rank, all cores", found.steps),
        ("two ranks, one thread each", found.pipelines),
        ("growth, one rank", found.growth),
    ):
        first = next(iter(samples.values())).per_unit
        lines += [f"| {title} | images | ms an image | ratio |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {s.work:.0f} | {1e3 * s.per_unit:.2f} | {s.per_unit / first:.2f} |"
            for name, s in samples.items()
        ]
        lines.append("")
    lines += ["| share of the multiply-add limit | |", "|---|---|"]
    lines += [f"| {name} | {share:.0%} |" for name, share in found.kernel_shares.items()]
    lines += ["", "| closed form / measured, 2 stages | |", "|---|---|"]
    lines += [f"| {n} chunks | {np.median(shares):.1%} |" for n, shares in found.bounds.items()]
    return "\n".join(lines)


def write(path: Path, found: Results) -> None:
    """A dataset of seconds a round for each contender, and the shares as attributes."""
    with h5py.File(path, "w") as file:
        file.attrs.update(machine=platform.platform(), cores=os.cpu_count())
        for group in ("steps", "pipelines", "growth"):
            for name, sample in getattr(found, group).items():
                dataset = file.create_dataset(f"{group}/{name}", data=sample.seconds)
                dataset.attrs.update(unit="s", images=sample.work)
        file.create_group("kernel_shares").attrs.update(found.kernel_shares)
        for chunks, shares in found.bounds.items():
            file[f"bounds/{chunks} chunks"] = shares
