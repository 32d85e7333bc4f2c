"""Benchmark of inference: pipelines, copies and threads on two cores, in Python and exported.

    python -m analysis.bench.inference --checkpoint PATH --images FILE.npy --export NAME=FOLDER ...

In each round, every program classifies the images on one rank, on a pipeline of two stages, on two
copies of the model, and on one rank with two threads (`vigmpi infer`, and exports whose folder
FOLDER-2 was compiled for two). A pipeline of S stages that take t_s for a batch of B images
classifies at most B / max t_s images a second; the stages' times in the same run give this bound.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from analysis.bench.launcher import mpiexec
from vigmpi.commands.latency import summarize
from vigmpi.host import processor_name

_LAYOUTS = {"1 x 1": (1, 1, 1), "pipe 2 x 1": (2, 1, 1), "farm 1 x 2": (1, 2, 1)}
_THREADS = "1 x 1, 2 threads"


class Case(NamedTuple):
    """A program in a layout.

    Attributes:
        program, layout: their names.
        command: arguments, with the layout.
    """

    program: str
    layout: str
    command: list[str]


class Result(NamedTuple):
    """Images per second, and the bound by the stages' own times, in each round: [rounds]."""

    images_per_s: list[float]
    bound: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.inference", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--checkpoint", required=True, help="checkpoint for vigmpi infer")
    parser.add_argument("--images", required=True, help="file of images")
    parser.add_argument("--export", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--split", help="blocks of the exports' pipelines, if not even; as 5,7")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch")
    parser.add_argument("--warm-up", type=int, default=100, help="images that do not count")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--precision", default="fp32", help="of vigmpi infer")
    parser.add_argument("--output", type=Path, default=Path("inference.h5"), help="HDF5 file")
    arguments = parser.parse_args()
    cases = list(_cases(arguments))
    results = {case[:2]: Result([], []) for case in cases}
    for _ in range(arguments.rounds):
        for case in cases:
            rate, bound = run(case, arguments.batch_size, arguments.warm_up)
            results[case[:2]].images_per_s.append(rate)
            results[case[:2]].bound.append(bound)
    print(table(results))
    write(arguments.output, results, arguments)
    print(f"\n{arguments.rounds} rounds; {processor_name()}, {os.cpu_count()} cores")
    print(f"results: {arguments.output}")


def _cases(arguments: argparse.Namespace) -> Iterator[Case]:
    infer = [sys.executable, "-m", "vigmpi", "infer", "--checkpoint", arguments.checkpoint]
    infer += ["--images", arguments.images, "--precision", arguments.precision]
    for layout, (stages, replicas, threads) in {**_LAYOUTS, _THREADS: (1, 1, 2)}.items():
        flags = ["--stages", str(stages), "--replicas", str(replicas), "--threads", str(threads)]
        yield Case("vigmpi infer", layout, _on(stages * replicas, [*infer, *flags]))
    for export in arguments.export:
        name, _, folder = export.partition("=")
        for layout, (stages, replicas, _) in _LAYOUTS.items():
            program = [f"{folder}/vigmpi_infer", folder, arguments.images, "--stages", str(stages)]
            if stages > 1 and arguments.split:
                program += ["--split", arguments.split]
            yield Case(name, layout, _on(stages * replicas, program))
        if Path(f"{folder}-2").exists():
            program = [f"{folder}-2/vigmpi_infer", f"{folder}-2", arguments.images]
            yield Case(name, _THREADS, _on(1, program))


def _on(ranks: int, program: list[str]) -> list[str]:
    return [mpiexec(), "-n", str(ranks), *program]


def run(case: Case, batch_size: int, warm_up: int) -> tuple[float, float]:
    """Return the images per second of a run, and the bound by its stages' own times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "times.npy")
        flags = ["--batch-size", str(batch_size), "--times", str(path)]
        subprocess.run([*case.command, *flags], check=True, capture_output=True)
        result = summarize(np.load(path), warm_up)
    copies = 2 if case.layout.startswith("farm") else 1
    return result.images_per_s, copies * result.batch / result.busy_s


def table(results: dict[tuple[str, str], Result]) -> str:
    """Return a Markdown table of medians."""
    lines = [
        "| program | layout | images/s | over one rank | share of the bound |",
        "|---|---|---|---|---|",
    ]
    for (program, layout), result in results.items():
        one = np.array(results[program, "1 x 1"].images_per_s)
        rates, bounds = np.array(result.images_per_s), np.array(result.bound)
        lines.append(
            f"| {program} | {layout} | {np.median(rates):.1f} | {np.median(rates / one):.2f} | "
            f"{np.median(rates / bounds):.1%} |"
        )
    return "\n".join(lines)


def write(
    path: Path, results: dict[tuple[str, str], Result], arguments: argparse.Namespace
) -> None:
    """Write the rates of all rounds."""
    with h5py.File(path, "w") as file:
        file.attrs.update(processor=processor_name(), cores=os.cpu_count())
        file.attrs.update(batch_size=arguments.batch_size, precision=arguments.precision)
        file.attrs["split_of_exports"] = arguments.split or "even"
        for (program, layout), result in results.items():
            group = file.create_group(f"{program}/{layout}")
            group["images_per_s"], group["bound"] = result


if __name__ == "__main__":
    main()
