from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from vigmpi.errors import InputError
from vigmpi.record.columns import FORMAT, LAYERS, STEPS, TRACE
from vigmpi.record.timings import timing_columns

# h5py raises any of these for a damaged file.
_DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)


class PreviousRecord(NamedTuple):
    """Contents of a run's record up to the checkpoint from which the run resumes.

    Attributes:
        rows: the values written up to the checkpoint, by name of the dataset.
        attributes: the attributes of the file.
        kinds: the names of the trace's kinds of action; empty without a trace.
    """

    rows: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]
    kinds: list[str]


def read_previous_record(
    path: Path, run: str, mini_batches: int, axes: Mapping[str, np.ndarray]
) -> PreviousRecord:
    """Read a record up to a checkpoint.

    Args:
        run: identifier of the run.
        mini_batches: number of mini-batches completed at the checkpoint; later rows are dropped,
            because the resumed run repeats them.
        axes: axes of the resumed run, which the record must share.

    Raises:
        InputError: if the record cannot be read, or has another format, run or layout.
    """
    remedy = "Use --record FILE to start a new record, or --overwrite to replace it."
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes = dict(file.attrs)
            if (version := attributes.get("format", "no version")) != FORMAT:
                raise InputError(
                    f'unsupported record format: {path} has "{version!s:.40}", this version reads '
                    f'"{FORMAT}". {remedy}'
                )
            if attributes.get("run") != run:
                raise InputError(f"record belongs to another run: {path}. {remedy}")
            if not all(np.array_equal(file[name][:], axis) for name, axis in axes.items()):
                raise InputError(f"record has another layout: {path}. {remedy}")
            return PreviousRecord(_rows(file, mini_batches), attributes, _kinds(file))
    except _DAMAGED as error:
        raise InputError(f"cannot read the record: {path} ({error}). {remedy}") from error


def _rows(file: h5py.File, mini_batches: int) -> dict[str, np.ndarray]:
    numbers = file["mini_batch"][: int(file.attrs["steps_done"])]
    keep = np.count_nonzero(numbers < mini_batches)
    rows = {"mini_batch": numbers[:keep]}
    groups = {"steps": STEPS, "timings": timing_columns(), "layers": LAYERS}
    for group, columns in groups.items():
        for name in (f"{group}/{column.name}" for column in columns):
            rows[name] = file[name][:keep]
    if {len(values) for values in rows.values()} != {keep}:
        raise ValueError("columns differ in length")
    if "trace" in file:
        before = file["trace/mini_batch"][:] < mini_batches
        for name in (f"trace/{column.name}" for column in TRACE):
            rows[name] = file[name][:][before]
    return rows


def _kinds(file: h5py.File) -> list[str]:
    return [str(kind) for kind in file["trace"].attrs["kinds"]] if "trace" in file else []
