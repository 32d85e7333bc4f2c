"""Tables and a figure of the benchmark of models: `python -m analysis.model_times RECORD`."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.model_times",
        description="Print the tables of a benchmark of models; draw the share of the search.",
    )
    parser.add_argument("record", type=Path, help="HDF5 file")
    parser.add_argument("--output", type=Path, help="folder for the figure")
    arguments = parser.parse_args()
    with h5py.File(arguments.record, locking=False) as file:
        for section in ("steps", "compiled", "graphers"):
            if section in file:
                print("\n".join(comparisons(file[section])), end="\n\n")
        if "products" in file:
            print("\n".join(products(file["products"])), end="\n\n")
        if "memory" in file:
            print("\n".join(memory(file["memory"])), end="\n\n")
        if "growth" in file:
            print("\n".join(growth(file["growth"])))
            if arguments.output:
                arguments.output.mkdir(exist_ok=True)
                mpl.rcParams["svg.hashsalt"] = "vigmpi"
                for suffix in ("svg", "png"):
                    search_share(file["growth"]).savefig(arguments.output / f"search.{suffix}")


def comparisons(section: h5py.Group) -> Iterator[str]:
    """Yield the rows of a table of medians; ratios are medians over the rounds."""
    sides = list(next(iter(section.values())))
    ratios = [f"{sides[0]} / {side}" for side in sides[1:]]
    seconds, memory = ([f"{side}, {unit}" for side in sides] for unit in ("s", "GiB"))
    yield "| " + " | ".join(["", *seconds, *ratios, *memory]) + " |"
    yield "|---" * (1 + 2 * len(sides) + len(ratios)) + "|"
    for name, group in section.items():
        times = {side: group[side][:] for side in sides}
        cells = [f"{np.median(values):.3f}" for values in times.values()]
        cells += [f"{np.median(times[sides[0]] / times[side]):.2f}" for side in sides[1:]]
        cells += [f"{group[side].attrs['added_bytes'] / 2**30:.2f}" for side in sides]
        yield "| " + " | ".join([name, *cells]) + " |"


def products(section: h5py.Group) -> Iterator[str]:
    """Yield the rows of a table of the seconds of a step's products and convolutions."""
    yield "| | fast, s | products and convolutions, s |"
    yield "|---|---|---|"
    for name, group in section.items():
        seconds, products_s = np.median(group["fast"]), group["profiled"].attrs["products_s"]
        yield f"| {name} | {seconds:.3f} | {products_s:.3f} |"


def memory(section: h5py.Group) -> Iterator[str]:
    """Yield the rows of a table of the memory for one image and for each further one."""
    sides = ("reference", "fast")
    columns = [f"{side}, {part}" for part in ("MiB", "MiB per image") for side in sides]
    yield "| " + " | ".join(["", *columns]) + " |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, group in section.items():
        one, further = [], []
        for side in sides:
            few, many = (case for key, case in group.items() if key.startswith(side))
            added = many.attrs["added_bytes"] - few.attrs["added_bytes"]
            further.append(added / (many.attrs["images"] - few.attrs["images"]) / 2**20)
            one.append(few.attrs["added_bytes"] / 2**20)
        cells = [f"{value:.0f}" for value in one] + [f"{value:.1f}" for value in further]
        yield "| " + " | ".join([name, *cells]) + " |"


def growth(section: h5py.Group) -> Iterator[str]:
    """Yield the rows of a table of seconds and memory per image and the search's share."""
    yield "| | images | ms per image | MiB per image | share of the search |"
    yield "|---|---|---|---|---|"
    for name, group in section.items():
        [side] = group.values()
        images, seconds = side.attrs["images"], np.median(side)
        memory = side.attrs["added_bytes"] / images / 2**20
        share = side.attrs["search_s"] / seconds
        yield f"| {name} | {images} | {seconds / images * 1e3:.1f} | {memory:.0f} | {share:.1%} |"


def search_share(section: h5py.Group) -> Figure:
    """Draw the share of the search for neighbours in a training step against the image side."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    points: dict[str, list[tuple[int, float]]] = {}
    for name, group in section.items():
        if match := re.fullmatch(r"(.+), side (\d+)", name):
            [side] = group.values()
            share = side.attrs["search_s"] / np.median(side)
            points.setdefault(match[1], []).append((int(match[2]), share))
    for model, pairs in points.items():
        sides, shares = zip(*sorted(pairs), strict=True)
        axes.plot(sides, [100 * share for share in shares], marker="o", label=model)
        axes.set_xticks(sides)
    axes.set_xlabel("image side, pixels")
    axes.set_ylabel("share of the search, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
