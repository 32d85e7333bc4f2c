import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigmpi.errors import InputError, RankError, error_reason
from vigmpi.hdf5_strings import escaped, fixed_string, fixed_strings
from vigmpi.layout.layout import Layout
from vigmpi.record.columns import CLOCKS, FORMAT, LAYERS, PEAK, RANKS, STEPS, TRACE, Column
from vigmpi.record.previous_record import PreviousRecord, read_previous_record
from vigmpi.record.step_record import Row
from vigmpi.record.timings import timing_columns

_FLUSH_S = 2.0
_CHUNK_ROWS = 256
_METADATA_BYTES = 2**16
_CHUNK_CACHE_BYTES = 2**16  # of each dataset; HDF5 would keep up to 8 MiB of what was written

_AXES = {
    "rank": "rank in MPI_COMM_WORLD",
    "replica": "replica of the pipeline",
    "layer": "layer of the model: stem, block, residual pair, downsampling or head",
    "mini_batch": "mini-batch of the run, from 0, in training and tests",
}


class Recorder:
    """Writer of a run's HDF5 file, on one rank; README.md describes the format.

    The file consists of plain datasets with units and named axes. Rows are written in short
    bursts, each of which ends with an update of the attribute `steps_done` and a flush. A killed
    run therefore leaves a readable file, and readers use the first `steps_done` rows. The file
    does not use SWMR or newer file formats, because such a file cannot be opened after a kill.

    Args:
        attributes: attributes by name of their group; "" for those of the file.
        layout: layout that the run started with.
        ranks: a value for each rank in each column of `RANKS`, [ranks] each.
        layers: names of the model's layers.
        resume_from: number of mini-batches completed at the checkpoint from which the run
            resumes. The rows up to there are copied to a new file, which then replaces the old.
        unwritten: rows up to there that the old file may lack, the last ones in their order.

    Raises:
        InputError: if the file exists, cannot be written, or does not belong to the resumed run.
        RankError: by any method, if the file cannot grow. Flushed rows remain readable only if
            the process then ends with `os._exit`: a regular exit closes, and so writes, the file.
    """

    def __init__(
        self,
        path: Path,
        attributes: Mapping[str, Mapping[str, Any]],
        layout: Layout,
        ranks: Mapping[str, np.ndarray],
        layers: Sequence[str],
        *,
        overwrite: bool = False,
        resume_from: int = 0,
        unwritten: Sequence[Row] = (),
    ) -> None:
        axes = {
            "rank": np.arange(layout.ranks, dtype=np.int32),
            "replica": np.arange(layout.replicas, dtype=np.int32),
            "layer": np.array(layers, dtype="S"),
        }
        previous = None
        if resume_from and path.exists():
            run = attributes[""]["run"]
            places = {name: ranks[name] for name in ("stage", "part")}
            previous = _read_previous(path, run, resume_from, axes, places, overwrite=overwrite)
        new = path.with_name(f".{path.name}.new") if previous else path
        self._path = path
        self._layout = layout
        # Open datasets are kept: on deletion h5py writes their buffers and ignores errors.
        self._extendible: dict[str, h5py.Dataset] = {}
        self._file = _create(new, overwrite=overwrite or previous is not None)
        self._write_attributes(attributes)
        self._make_axes(axes)
        for column in RANKS:
            self.add_ranks("ranks", column, ranks[column.name])
        self.add_ranks("ranks", PEAK, np.zeros(layout.ranks, PEAK.dtype))
        self._peak = self._file[f"ranks/{PEAK.name}"]
        for group, columns, names in (
            ("steps", STEPS, ["mini_batch"]),
            ("timings", timing_columns(), ["mini_batch", "rank"]),
            ("layers", LAYERS, ["mini_batch", "replica", "layer"]),
        ):
            for column in columns:
                self._make(group, column, names)
        self._rows: list[tuple[Mapping[str, Any], np.ndarray]] = []  # of steps, and of all ranks
        self._spans: list[np.ndarray] = []
        self._flushed_at = 0.0
        self._trace_from_s = 0.0
        if previous:
            self._copy_rows(previous)
        self._next = resume_from - self._add_missing(unwritten, resume_from)
        if resume_from:
            resumed_at = previous.resumed_at if previous else []
            self._file.attrs["resumed_at"] = [*resumed_at, resume_from]
        self.flush()
        new.rename(path)

    def _write_attributes(self, attributes: Mapping[str, Mapping[str, Any]]) -> None:
        for group, attrs in attributes.items():
            texts = {name: escaped(value) for name, value in attrs.items() if type(value) is str}
            self._file.require_group(f"/{group}").attrs.update({**attrs, **texts})
        # What a resumed run reads has a fixed length.
        self._file.attrs["format"] = fixed_string(FORMAT)
        for name in ("run", "started"):
            self._file.attrs[name] = fixed_string(attributes[""][name])

    def _add_missing(self, unwritten: Sequence[Row], resume_from: int) -> int:
        """Add the rows up to `resume_from` that the file lacks; return their number."""
        numbers = self._file["mini_batch"][-1:]
        written = int(numbers[0]) + 1 if len(numbers) else 0
        missing = [row for row in unwritten if written <= row.mini_batch < resume_from]
        for row in missing:
            self._add(row)
        return len(missing)

    def add_ranks(self, group: str, column: Column, values: np.ndarray) -> None:
        """Write a column with one value per rank and run, [ranks]."""
        with self._reserved_space():
            dataset = self._file.create_dataset(f"{group}/{column.name}", data=values)
            self._describe(dataset, column, ["rank"])

    def begin_trace(self, kinds: Sequence[str], clocks: Mapping[str, np.ndarray]) -> None:
        """Create the datasets of the trace.

        Args:
            kinds: names of the kinds of action, by number.
            clocks: columns of `CLOCKS` that are known at the start, [ranks] each.
        """
        if "trace" not in self._file:
            self._make_trace(kinds)
        for column in CLOCKS:
            if column.name in clocks:
                self.add_ranks("trace", column, clocks[column.name])

    @property
    def num_written(self) -> int:
        """Number of the run's mini-batches that the file holds or that a resume left out."""
        return self._next

    def add(self, row: Row) -> None:
        """Add the next mini-batch, to be written at the next flush; lost ranks become NaN."""
        self._add(row)
        if time.monotonic() - self._flushed_at > _FLUSH_S:
            self.flush()

    def _add(self, row: Row) -> None:
        ranks = np.empty(self._layout.ranks, row.record.ranks.dtype)
        ranks.view(np.float64)[:] = np.nan
        ranks[list(row.original_ranks)] = row.record.ranks
        self._rows.append((row.record.as_row(warm_up=row.warm_up), ranks))

    def add_spans(self, spans: np.ndarray) -> None:
        """Add spans to the trace, [spans, len(TRACE)], to be written at the next flush."""
        shift = [self._trace_from_s if column.unit == "s" else 0 for column in TRACE]
        self._spans.append(spans + shift)

    def flush(self) -> None:
        """Write all added rows and spans to the file."""
        rows = {
            name: sum(map(len, self._spans)) if name.startswith("trace/") else len(self._rows)
            for name in self._extendible
        }
        with self._reserved_space(self._bytes_of_new_chunks(rows)):
            self._write_added()
            self._file.attrs["steps_done"] = len(self._file["mini_batch"])
            self._file.flush()
        self._next += len(self._rows)
        self._rows.clear()
        self._spans.clear()
        self._flushed_at = time.monotonic()

    def _write_added(self) -> None:
        if self._spans:
            for column, values in zip(TRACE, np.concatenate(self._spans).T, strict=True):
                self._append(f"trace/{column.name}", values)
        if self._rows:
            self._append("mini_batch", np.arange(self._next, self._next + len(self._rows)))
            for column in STEPS:
                self._append(f"steps/{column.name}", [step[column.name] for step, _ in self._rows])
            ranks = np.array([ranks for _, ranks in self._rows])
            for i, column in enumerate(timing_columns()):
                self._append(f"timings/{column.name}", ranks["timings"][:, :, i])
            by_stage = ranks["layers"].reshape(-1, *self._layout.shape, *ranks["layers"].shape[2:])
            by_replica = np.fmax.reduce(by_stage, axis=(2, 3))
            for i, column in enumerate(LAYERS):
                self._append(f"layers/{column.name}", by_replica[:, :, i])
            self._peak[:] = np.nan_to_num(ranks["peak_rss_bytes"][-1]).astype(np.int64)

    @property
    def is_open(self) -> bool:
        return bool(self._file)

    def close(self, **attributes: Any) -> None:
        """Flush, write the file attributes known only at the end of the run, and close the file."""
        self.flush()
        with self._reserved_space():
            self._file.attrs.update(attributes)
            self._file.close()

    def _copy_rows(self, previous: PreviousRecord) -> None:
        if previous.kinds:
            self._make_trace(previous.kinds)
        rows = {name: len(values) for name, values in previous.rows.items()}
        with self._reserved_space(self._bytes_of_new_chunks(rows)):
            for name, values in previous.rows.items():
                self._append(name, values)
        if len(ends := previous.rows.get("trace/end_s", ())):
            self._trace_from_s = max(ends)
        self._file.attrs["started"] = fixed_string(previous.started)

    @contextmanager
    def _reserved_space(self, size_bytes: int = 0) -> Iterator[None]:
        """Reserve disk space before HDF5 begins to write.

        HDF5 continues after a write that failed for lack of space, and may leave a file that
        cannot be opened.

        Args:
            size_bytes: size of the new chunks; space for metadata is added.
        """
        try:
            # From the end: where a file system cannot reserve space, the C library writes to all
            # blocks of the range.
            end = self._file.id.get_filesize()
            os.posix_fallocate(self._file.id.get_vfd_handle(), end, size_bytes + _METADATA_BYTES)
            yield
        except (OSError, RuntimeError) as error:
            raise RankError(
                f"cannot extend the record: {self._path} ({error_reason(error)}); the rows written "
                f"so far are complete. Free disk space, then use --resume latest --record "
                f"{self._path}."
            ) from error

    def _bytes_of_new_chunks(self, rows: Mapping[str, int]) -> int:
        """Return the size of the chunks that appending `rows` rows to each dataset needs."""
        total = 0
        for name, added in rows.items():
            dataset = self._extendible[name]
            done, chunk_bytes = len(dataset), math.prod(dataset.chunks) * dataset.dtype.itemsize
            total += (-(-(done + added) // _CHUNK_ROWS) - -(-done // _CHUNK_ROWS)) * chunk_bytes
        return total

    def _make_axes(self, axes: Mapping[str, np.ndarray]) -> None:
        extendible = {"mini_batch": np.empty(0, np.int32)}
        for name, values in {**axes, **extendible}.items():
            shape = {"maxshape": (None,), "chunks": (_CHUNK_ROWS,)} if name in extendible else {}
            axis = self._file.create_dataset(name, data=values, **shape)
            axis.attrs.update(unit="1", description=_AXES[name])
            axis.make_scale(name)
            if name in extendible:
                self._extendible[name] = axis

    def _make_trace(self, kinds: Sequence[str]) -> None:
        for column in TRACE:
            self._make("trace", column, ["span"])
        self._file["trace"].attrs["kinds"] = fixed_strings(kinds)

    def _make(self, group: str, column: Column, axes: Sequence[str]) -> None:
        fixed = [len(self._file[axis]) for axis in axes[1:]]
        dataset = self._file.create_dataset(
            f"{group}/{column.name}",
            (0, *fixed),
            column.dtype,
            maxshape=(None, *fixed),
            chunks=(_CHUNK_ROWS, *fixed),
        )
        self._describe(dataset, column, axes)
        self._extendible[dataset.name.strip("/")] = dataset

    def _describe(self, dataset: h5py.Dataset, column: Column, axes: Sequence[str]) -> None:
        dataset.attrs.update(unit=column.unit, description=column.description)
        for dimension, axis in zip(dataset.dims, axes, strict=True):
            dimension.label = axis
            if axis in self._file:
                dimension.attach_scale(self._file[axis])

    def _append(self, name: str, values: Any) -> None:
        dataset = self._extendible[name]
        done = len(dataset)
        dataset.resize(done + len(values), axis=0)
        dataset[done:] = values


def _read_previous(
    path: Path,
    run: str,
    mini_batches: int,
    axes: Mapping[str, np.ndarray],
    places: Mapping[str, np.ndarray],
    *,
    overwrite: bool,
) -> PreviousRecord | None:
    try:
        return read_previous_record(path, run, mini_batches, axes, places)
    except InputError:
        if overwrite:
            return None
        raise


def not_writable(path: Path, error: OSError) -> InputError:
    """Return the error for a record that cannot be written."""
    return InputError(
        f"cannot write the record: {path} ({error_reason(error)}). Use --record FILE with a path "
        f"that can be written."
    )


def _create(path: Path, *, overwrite: bool) -> h5py.File:
    try:
        # A lock would keep readers out, and network file systems often refuse it.
        mode = "w" if overwrite else "x"
        return h5py.File(path, mode, locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except FileExistsError as error:
        raise InputError(
            f"record already exists: {path}. Use --overwrite to replace it and its "
            f"checkpoints, or --record FILE."
        ) from error
    except OSError as error:
        raise not_writable(path, error) from error
