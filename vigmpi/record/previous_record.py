from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from vigmpi.errors import InputError
from vigmpi.hdf5_strings import read_string
from vigmpi.record.columns import FORMAT, LAYERS, STEPS, TRACE
from vigmpi.record.timings import timing_columns

# h5py raises any of these for a damaged file.
_DAMAGED = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError)


class PreviousRecord(NamedTuple):
    """Contents of a run's record up to the checkpoint from which the run resumes.

    Attributes:
        rows: the values written up to the checkpoint, by name of the dataset.
        started: when the run started.
        resumed_at: numbers of mini-batches after which the run resumed.
        kinds: the names of the trace's kinds of action; empty without a trace.
    """

    rows: Mapping[str, np.ndarray]
    started: str
    resumed_at: list[int]
    kinds: list[str]


def read_previous_record(
    path: Path,
    run: str,
    mini_batches: int,
    axes: Mapping[str, np.ndarray],
    places: Mapping[str, np.ndarray],
) -> PreviousRecord:
    """Read a record up to a checkpoint.

    Args:
        run: identifier of the run.
        mini_batches: number of mini-batches completed at the checkpoint; later rows are dropped,
            because the resumed run repeats them.
        axes: axes of the resumed run, which the record must share.
        places: stage and part of each rank of the resumed run, likewise.

    Raises:
        InputError: if the record cannot be read, or has another format, run or layout.
    """
    remedy = "Use --record FILE to start a new record, or --overwrite to replace it."
    try:
        with h5py.File(path, "r", locking=False) as file:
            version = read_string(file.attrs, "format") or "no version"
            if version != FORMAT:
                raise InputError(
                    f'unsupported record format: {path} has "{version:.40}", this version reads '
                    f'"{FORMAT}". {remedy}'
                )
            if read_string(file.attrs, "run") != run:
                raise InputError(f"record belongs to another run: {path}. {remedy}")
            same = all(np.array_equal(file[name][:], axis) for name, axis in axes.items())
            if not same or not all(
                np.array_equal(_place(file, name), place) for name, place in places.items()
            ):
                raise InputError(f"record has another layout: {path}. {remedy}")
            started = read_string(file.attrs, "started") or ""
            resumed_at = [int(number) for number in file.attrs.get("resumed_at", ())]
            rows = _rows(file, mini_batches)
            return PreviousRecord(rows, started, resumed_at, _kinds(file))
    except _DAMAGED as error:
        raise InputError(f"cannot read the record: {path} ({error}). {remedy}") from error


# Columns that records of earlier versions do not have.
_ADDED = {"steps/raw_loss", "steps/raw_accuracy", "timings/parts_s"}


def _place(file: h5py.File, name: str) -> np.ndarray:
    """Return a column of the ranks' places; records of earlier versions have no parts."""
    stages: np.ndarray = file["ranks/stage"][:]
    return file["ranks"][name][:] if name in file["ranks"] else np.zeros_like(stages)


def _rows(file: h5py.File, mini_batches: int) -> dict[str, np.ndarray]:
    numbers = file["mini_batch"][: int(file.attrs["steps_done"])]
    keep = np.count_nonzero(numbers < mini_batches)
    rows = {"mini_batch": numbers[:keep]}
    groups = {"steps": STEPS, "timings": timing_columns(), "layers": LAYERS}
    for group, columns in groups.items():
        for name in (f"{group}/{column.name}" for column in columns):
            if name in _ADDED and name not in file:
                like = file[f"{group}/{columns[0].name}"]
                rows[name] = np.full((keep, *like.shape[1:]), np.nan)
            else:
                rows[name] = file[name][:keep]
    if {len(values) for values in rows.values()} != {keep}:
        raise ValueError("columns differ in length")
    if "trace" in file:
        before = file["trace/mini_batch"][:] < mini_batches
        for name in (f"trace/{column.name}" for column in TRACE):
            rows[name] = file[name][:][before]
    return rows


def _kinds(file: h5py.File) -> list[str]:
    if "trace" not in file:
        return []
    attributes = file["trace"].attrs
    if attributes.get_id("kinds").dtype.kind != "S":
        raise ValueError("names of a trace's actions have a variable length")
    return [kind.decode() for kind in attributes["kinds"]]
