"""Seconds and memory of training steps of the models, for all backends and precisions.

    python -m analysis.bench.models [SECTION ...] [--rounds N] [--output FILE]

A step is a forward and a backward pass of 8 images. Both sides of a comparison take turns, each in
a process of its own. The sections are `steps` (whole models), `compiled` (the reference backend
compiled by `torch.compile`), `products` (steps under torch's profiler, with the time in products
and convolutions), `graphers` (the first half of a block alone), `memory` (the same with 1 image
and with 32) and `growth` (over image side, neighbours and width, with the share of the search).
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from analysis.bench.model_step import Case, Step, StepProcess
from vigmpi.host import processor_name
from vigmpi.models import MODELS

_BACKENDS: dict[str, dict[str, Any]] = {
    "reference": {"backend": "reference"},
    "fast": {"backend": "fast"},
    "bf16": {"precision": "bf16"},
}
_GRAPHERS = {"vig_ti": (0, 5, 11), "vig_s": (11,), "pvig_ti": (0, 2, 4, 10)}
_SIDES = (64, 128, 224, 320, 448)


class Comparison(NamedTuple):
    """Cases that take turns, by the name of the side, and the number of warm-up steps."""

    sides: Mapping[str, Case]
    warm_up: int = 1


def steps() -> dict[str, Comparison]:
    comparisons = {}
    for threads in (1, 2):
        for name, entry in MODELS.items():
            if "precision" in entry.options and (threads == 1 or name in _GRAPHERS):
                sides = {
                    side: Case(name, threads=threads, **options)
                    for side, options in _BACKENDS.items()
                }
                comparisons[f"{name}, {threads} threads"] = Comparison(sides)
    return comparisons


def compiled() -> dict[str, Comparison]:
    sides = {**_BACKENDS, "compiled": {"backend": "reference", "compiled": True}}
    return {
        f"{name}, {threads} threads": Comparison(
            {
                side: Case(name, threads=threads, **sides[side])
                for side in ("compiled", "reference", "fast")
            },
            warm_up=2,
        )
        for threads in (1, 2)
        for name in _GRAPHERS
    }


def products() -> dict[str, Comparison]:
    return {
        f"{name}, {threads} threads": Comparison(
            {
                "fast": Case(name, threads=threads),
                "profiled": Case(name, threads=threads, profiled=True),
            },
            warm_up=2,
        )
        for threads in (1, 2)
        for name in _GRAPHERS
    }


def graphers() -> dict[str, Comparison]:
    return {
        f"{name} block {block}, {threads} threads": Comparison(
            {
                side: Case(name, threads=threads, grapher=block, **_BACKENDS[side])
                for side in ("reference", "fast")
            },
            warm_up=2,
        )
        for threads in (1, 2)
        for name, blocks in _GRAPHERS.items()
        for block in blocks
    }


def memory() -> dict[str, Comparison]:
    return {
        f"{name} block {block}": Comparison(
            {
                f"{side}, {images} images": Case(
                    name, images=images, grapher=block, **_BACKENDS[side]
                )
                for side in ("reference", "fast")
                for images in (1, 32)
            }
        )
        for name, blocks in _GRAPHERS.items()
        for block in blocks
    }


def growth() -> dict[str, Comparison]:
    cases = {
        **{
            f"{name}, side {side}": Case(name, side=side, images=max(2, 8 * 224**2 // side**2))
            for name in ("vig_ti", "pvig_ti")
            for side in _SIDES
        },
        **{f"k {k}": Case("isotropic", k=k) for k in (5, 9, 18, 36)},
        **{f"width {width}": Case("isotropic", width=width) for width in (96, 192, 384, 768)},
    }
    return {name: Comparison({"fast": case}) for name, case in cases.items()}


SECTIONS = {
    "steps": steps,
    "compiled": compiled,
    "products": products,
    "graphers": graphers,
    "memory": memory,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.models",
        description="Time training steps of the models.",
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--models", nargs="+", help="names of the comparisons begin with these")
    parser.add_argument("--rounds", type=int, default=7, help="number of timed steps")
    parser.add_argument("--output", type=Path, default=Path("models.h5"), help="HDF5 file to write")
    arguments = parser.parse_args()
    unknown = set(arguments.sections).difference(SECTIONS)
    if unknown:
        parser.error(f"unknown section: {', '.join(unknown)}. Use {', '.join(SECTIONS)}.")
    with h5py.File(arguments.output, "a") as file:
        for section in arguments.sections or SECTIONS:
            group = file.require_group(section)
            group.attrs.update(processor=processor_name(), cores=os.cpu_count())
            for name, comparison in SECTIONS[section]().items():
                if arguments.models and not name.startswith(tuple(arguments.models)):
                    continue
                found = measure(comparison, arguments.rounds)
                if name in group:
                    del group[name]
                write(group.create_group(name, track_order=True), comparison, found)
                print(line(name, group[name]), flush=True)
    print(f"\n{arguments.rounds} steps; {processor_name()}; results: {arguments.output}")


def measure(comparison: Comparison, rounds: int) -> dict[str, list[Step]]:
    """Return the timed steps of every side."""
    processes = {side: StepProcess(case) for side, case in comparison.sides.items()}
    found: dict[str, list[Step]] = {side: [] for side in processes}
    for _ in range(comparison.warm_up + rounds):
        for side, process in processes.items():
            found[side].append(process.step())
    for process in processes.values():
        process.close()
    return {side: values[comparison.warm_up :] for side, values in found.items()}


def write(group: h5py.Group, comparison: Comparison, found: dict[str, list[Step]]) -> None:
    for side, values in found.items():
        dataset = group.create_dataset(side, data=[step.seconds for step in values])
        case = comparison.sides[side]
        dataset.attrs.update(unit="s", added_bytes=values[-1].added_bytes)
        dataset.attrs.update(images=case.images, threads=case.threads)
        for part in ("search_s", "products_s"):
            dataset.attrs[part] = float(np.median([getattr(step, part) for step in values]))


def line(name: str, group: h5py.Group) -> str:
    """Return a row of a table: medians, memory, and the first side's seconds over the others'."""
    sides = list(group.values())
    first = np.median(sides[0])
    cells = [name]
    for side in sides:
        seconds, gib = np.median(side), side.attrs["added_bytes"] / 2**30
        images = side.attrs["images"]
        parts = {part: side.attrs[f"{part}_s"] for part in ("search", "products")}
        shown = "".join(f", {part} {value:.3f} s" for part, value in parts.items() if value)
        cells.append(
            f"{seconds:.3f} s, {seconds / images * 1e3:.1f} ms/image, {gib:.2f} GiB{shown}, "
            f"x{first / seconds:.2f}"
        )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
