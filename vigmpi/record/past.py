from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from vigmpi.errors import InputError

_GROWING = ("steps", "timings", "parts")


class Past(NamedTuple):
    """What a record already holds of a run that goes on from a checkpoint.

    Attributes:
        rows: by the name of the dataset, what was written up to the checkpoint.
        attributes: of the file.
        kinds: of the spans of its trace; empty without one.
    """

    rows: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]
    kinds: list[str]


def read_past(path: Path, run: str, mini_batches: int, axes: Mapping[str, np.ndarray]) -> Past:
    """Read a record up to a checkpoint.

    Args:
        run: the run's identifier.
        mini_batches: done at the checkpoint; later ones will be done again.
        axes: that the record must have, since it goes on with the same ones.

    Raises:
        InputError: it cannot be read, or is of another run or layout.
    """
    other = "--output FILE, or --overwrite to lose it"
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes = dict(file.attrs)
            if attributes.get("run") != run:
                raise InputError(f"the record {path} is of another run; type: {other}")
            if not all(np.array_equal(file[name][:], axis) for name, axis in axes.items()):
                raise InputError(f"the record {path} is of another layout; type: {other}")
            return Past(_rows(file, mini_batches), attributes, _kinds(file))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the record {path} can't be read ({reason}); type: {other}") from error


def _rows(file: h5py.File, mini_batches: int) -> dict[str, np.ndarray]:
    numbers = file["mini_batch"][: int(file.attrs["steps_done"])]
    keep = slice(0, int(np.count_nonzero(numbers < mini_batches)))
    rows = {"mini_batch": numbers[keep]}
    for group in _GROWING:
        rows |= {f"{group}/{name}": values[keep] for name, values in file[group].items()}
    if "trace" in file:
        trace = file["trace"]
        before = trace["mini_batch"][:] < mini_batches
        spans = {f"trace/{n}": v[:] for n, v in trace.items() if v.shape == before.shape}
        rows |= {name: values[before] for name, values in spans.items()}
    return rows


def _kinds(file: h5py.File) -> list[str]:
    return [str(kind) for kind in file["trace"].attrs["kinds"]] if "trace" in file else []
