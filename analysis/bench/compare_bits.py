"""Bitwise comparison of two checkouts: `python -m analysis.bench.compare_bits A B`.

Both checkouts make the same list of short runs. SHA-256 digests of the losses, the weights and
the running statistics are compared. The exit status is 1 if any of them differ.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import safetensors.numpy

from analysis.bench.checkouts import STUDY, run


@dataclass(frozen=True)
class Case:
    """One run of the comparison.

    Attributes:
        stages, replicas: layout; their product is the number of ranks.
        options: further command-line options.
        start_from: name of an earlier case whose last checkpoint this run starts from.
        command: command of vigmpi.
    """

    stages: int
    replicas: int
    options: tuple[str, ...]
    start_from: str = ""
    command: str = "train"


class Digests(NamedTuple):
    """SHA-256 digests of a run's results, empty where a run has none."""

    losses: str
    weights: str
    statistics: str


def _case(stages: int, replicas: int, options: str, start_from: str = "") -> Case:
    return Case(stages, replicas, tuple(options.split()), start_from)


# Options that an individual case does not override.
_DEFAULTS = (
    *STUDY,
    *("--dataset", "digits", "--epochs", "1", "--steps", "3", "--test-steps", "1"),
    *("--threads", "1", "--seed", "1"),
)
CASES = {
    "one rank": _case(1, 1, "--batch-size 12"),
    "one rank, 2 threads": _case(1, 1, "--batch-size 40 --threads 2"),
    "one rank, uneven chunks": _case(1, 1, "--batch-size 12 --chunks 5"),
    "2 stages": _case(2, 1, "--batch-size 12 --chunks 3"),
    "2 stages, uneven split": _case(2, 1, "--batch-size 12 --chunks 5 --split 5,3"),
    "2 stages, 12 blocks": _case(2, 1, "--batch-size 8 --chunks 2 --blocks 12 --split 9,3"),
    "3 stages": _case(3, 1, "--batch-size 7 --chunks 7"),
    "4 stages": _case(4, 1, "--batch-size 11 --chunks 5"),
    "4 stages, 2 chunks": _case(4, 1, "--batch-size 12 --chunks 2"),
    "2 replicas": _case(1, 2, "--batch-size 12"),
    "3 replicas": _case(1, 3, "--batch-size 7 --chunks 2"),
    "2 stages x 2 replicas": _case(2, 2, "--batch-size 12 --chunks 5"),
    "2 stages x 3 replicas": _case(2, 3, "--batch-size 5 --chunks 3"),
    "4 stages x 2 replicas": _case(4, 2, "--batch-size 6 --chunks 3"),
    "reference": _case(1, 1, "--backend reference --batch-size 6 --chunks 2"),
    "reference, 2 stages": _case(2, 1, "--backend reference --batch-size 7 --chunks 3"),
    "reference, 2 replicas": _case(1, 2, "--backend reference --batch-size 4"),
    "learning rate": _case(1, 1, "--batch-size 12 --readout mean --lr 1e-3 --lr-schedule cosine "
                           "--warm-up 0.5"),
    "augmentation": _case(2, 1, "--batch-size 12 --chunks 2 --normalize --flip --random-crop 2"),
    "synthetic": _case(2, 1, "--dataset synthetic --batch-size 11 --chunks 3"),
    "whole epoch": _case(2, 1, "--batch-size 400 --chunks 9 --steps 0"),
    "resumed on one rank": _case(1, 1, "--epochs 2", "2 stages"),
    "resumed on 2 x 2 ranks": _case(2, 2, "--epochs 2 --batch-size 6", "2 stages"),
    "evaluation": Case(2, 1, ("--chunks", "2"), "2 stages", "evaluate"),
}  # fmt: skip


def digests(checkout: Path, name: str, folder: Path) -> Digests:
    """Make the run of a case in a checkout.

    Args:
        checkout: root folder of the checkout.
        name: key of `CASES`.
        folder: folder for the records and checkpoints of all the checkout's runs.
    """
    case, record = CASES[name], folder / f"{name}.h5"
    options = [*case.options, "--stages", str(case.stages), "--replicas", str(case.replicas)]
    options += ["--record", str(record), "--progress", "off"]
    if case.command == "train":
        options += ["--checkpoint-dir", str(folder / name)]
    if case.start_from:
        flag = "--resume" if case.command == "train" else "--checkpoint"
        options += [flag, str(folder / case.start_from), "--threads", "1"]
    else:
        options = [*_DEFAULTS, *options]
    run(checkout, options, ranks=case.stages * case.replicas, command=case.command)
    with h5py.File(record) as file:
        losses = _digest([file["steps/loss"][:]])
    if case.command == "evaluate":
        return Digests(losses, "", "")
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted((folder / name).glob("*/"))[-1].glob("*.safetensors"):
        tensors |= safetensors.numpy.load_file(shard)
    model = {key: tensors[key] for key in sorted(tensors) if not key.startswith("optimizer.")}
    statistics = [values for key, values in model.items() if "running" in key]
    weights = [values for key, values in model.items() if "running" not in key]
    return Digests(losses, _digest(weights), _digest(statistics))


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def compare(first: Path, second: Path) -> bool:
    """Print the comparison of every case and return whether all digests are equal."""
    print(f"{'run':26}{'losses':18}{'weights':18}{'running statistics':18}")
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / name for name in ("first", "second")]
        for path in folders:
            path.mkdir()
        for name in CASES:
            pair = [
                digests(checkout, name, path)
                for checkout, path in zip((first, second), folders, strict=True)
            ]
            equal &= pair[0] == pair[1]
            cells = [_cell(*values) for values in zip(*pair, strict=True)]
            print(f"{name:26}{''.join(f'{cell:18}' for cell in cells)}".rstrip(), flush=True)
    return equal


def _cell(first: str, second: str) -> str:
    if first != second:
        return "DIFFERENT"
    return f"equal {first[:8]}" if first else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.compare_bits",
        description="Compare the results of two checkouts bit by bit.",
    )
    parser.add_argument("first", type=Path, metavar="A", help="root folder of a checkout")
    parser.add_argument("second", type=Path, metavar="B", help="root folder of another checkout")
    arguments = parser.parse_args()
    sys.exit(0 if compare(arguments.first.resolve(), arguments.second.resolve()) else 1)


if __name__ == "__main__":
    main()
