import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigmpi.errors import InputError
from vigmpi.record.columns import PEAK, RANKS, STEPS, TIMINGS, Column

_FLUSH_S = 2.0
_CHUNK_STEPS = 256


class Recorder:
    """Writes the HDF5 file of a run, on one rank, while the run goes on.

    The file holds plain datasets only, with units and named axes. Rows are written in short
    bursts, each ended by the attribute `steps_done` and a flush, so that a killed run leaves
    a file that opens, and readers can cut at `steps_done`. SWMR and the newer file formats are
    left alone: a file that uses them cannot be opened after a kill.

    Args:
        attributes: groups of attributes by name; "" for those of the file itself.
        ranks: a value for each rank, [ranks], of each of `RANKS`.

    Raises:
        InputError: the file exists, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        attributes: Mapping[str, Mapping[str, Any]],
        ranks: Mapping[str, np.ndarray],
        *,
        overwrite: bool,
    ) -> None:
        self._file = _create(path, overwrite=overwrite)
        for group, attrs in attributes.items():
            self._file.require_group(f"/{group}").attrs.update(attrs)
        self._size = len(next(iter(ranks.values())))
        self._make_axes()
        for column in RANKS:
            values = self._file.create_dataset(f"ranks/{column.name}", data=ranks[column.name])
            self._describe(values, column, "rank")
        peak = self._file.create_dataset(f"ranks/{PEAK.name}", (self._size,), PEAK.dtype)
        self._describe(peak, PEAK, "rank")
        self._columns = {column.name: self._make(column) for column in (*STEPS, *TIMINGS)}
        self._rows: list[tuple[Mapping[str, Any], np.ndarray]] = []
        self._peak_rss_bytes: np.ndarray = np.zeros(self._size, PEAK.dtype)
        self._flushed_at = 0.0
        self._steps_done = 0
        self.flush()

    def add(self, step: Mapping[str, Any], timings: np.ndarray, peak_rss_bytes: np.ndarray) -> None:
        """Take a mini-batch's values.

        Args:
            step: a value for each of `STEPS`.
            timings: seconds, [ranks, len(TIMINGS)].
            peak_rss_bytes: [ranks].
        """
        self._rows.append((step, timings))
        self._peak_rss_bytes = peak_rss_bytes
        if time.monotonic() - self._flushed_at > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        start, end = self._steps_done, self._steps_done + len(self._rows)
        if self._rows:
            timings = np.array([row for _, row in self._rows])
            self._file["mini_batch"].resize(end, axis=0)
            self._file["mini_batch"][start:] = np.arange(start, end)
            for column in STEPS:
                self._write(column, start, [step[column.name] for step, _ in self._rows])
            for i, column in enumerate(TIMINGS):
                self._write(column, start, timings[:, :, i])
            self._file[f"ranks/{PEAK.name}"][:] = self._peak_rss_bytes
        self._file.attrs["steps_done"] = end
        self._file.flush()
        self._rows.clear()
        self._steps_done = end
        self._flushed_at = time.monotonic()

    def close(self, **attributes: Any) -> None:
        """Write what is left, and attributes that only the end of the run knows."""
        self.flush()
        self._file.attrs.update(attributes)
        self._file.close()

    def _make_axes(self) -> None:
        ranks = self._file.create_dataset("rank", data=np.arange(self._size, dtype=np.int32))
        steps = self._file.create_dataset(
            "mini_batch", (0,), np.int32, maxshape=(None,), chunks=(_CHUNK_STEPS,)
        )
        for axis, about in ((ranks, "rank in MPI_COMM_WORLD"), (steps, "in the order of the run")):
            axis.attrs.update(unit="1", about=about)
            axis.make_scale(axis.name.strip("/"))

    def _make(self, column: Column) -> h5py.Dataset:
        ranks = (self._size,) if column in TIMINGS else ()
        group = "timings" if column in TIMINGS else "steps"
        dataset = self._file.create_dataset(
            f"{group}/{column.name}",
            (0, *ranks),
            column.dtype,
            maxshape=(None, *ranks),
            chunks=(_CHUNK_STEPS, *ranks),
        )
        self._describe(dataset, column, *(("mini_batch", "rank") if ranks else ("mini_batch",)))
        return dataset

    def _describe(self, dataset: h5py.Dataset, column: Column, *axes: str) -> None:
        dataset.attrs.update(unit=column.unit, about=column.about)
        for dimension, axis in zip(dataset.dims, axes, strict=True):
            dimension.attach_scale(self._file[axis])

    def _write(self, column: Column, start: int, values: Any) -> None:
        dataset = self._columns[column.name]
        dataset.resize(start + len(values), axis=0)
        dataset[start:] = values


def _create(path: Path, *, overwrite: bool) -> h5py.File:
    try:
        # No lock: it would keep readers out, and network file systems often refuse one.
        return h5py.File(path, "w" if overwrite else "x", locking=False)
    except FileExistsError as error:
        raise InputError(
            f"the record {path} exists; type: --overwrite, or another --output"
        ) from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(
            f"the record {path} can't be written ({reason}); type: --output FILE"
        ) from error
