from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from vigmpi.errors import InputError
from vigmpi.record.columns import LAYERS, STEPS, TIMINGS, TRACE

_GROWING = {"steps": STEPS, "timings": TIMINGS, "layers": LAYERS}
# What h5py raises for a damaged file.
_DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)


class PreviousRecord(NamedTuple):
    """What a record already holds of a run that goes on from a checkpoint.

    Attributes:
        rows: by the name of the dataset, what was written up to the checkpoint.
        attributes: of the file.
        kinds: of the spans of its trace; empty without one.
    """

    rows: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]
    kinds: list[str]


def read_previous_record(
    path: Path, run: str, mini_batches: int, axes: Mapping[str, np.ndarray]
) -> PreviousRecord:
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
            return PreviousRecord(_rows(file, mini_batches), attributes, _kinds(file))
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise InputError(f"the record {path} can't be read ({reason}); type: {other}") from error


def _rows(file: h5py.File, mini_batches: int) -> dict[str, np.ndarray]:
    numbers = file["mini_batch"][: int(file.attrs["steps_done"])]
    keep = np.count_nonzero(numbers < mini_batches)
    rows = {"mini_batch": numbers[:keep]}
    for group, columns in _GROWING.items():
        for name in (f"{group}/{column.name}" for column in columns):
            rows[name] = file[name][:keep]
    if {len(values) for values in rows.values()} != {keep}:
        raise ValueError("its columns are of different lengths")
    if "trace" in file:
        before = file["trace/mini_batch"][:] < mini_batches
        for name in (f"trace/{column.name}" for column in TRACE):
            rows[name] = file[name][:][before]
    return rows


def _kinds(file: h5py.File) -> list[str]:
    return [str(kind) for kind in file["trace"].attrs["kinds"]] if "trace" in file else []
