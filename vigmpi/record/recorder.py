import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vigmpi.errors import InputError, RankError
from vigmpi.record.columns import CLOCKS, LAYERS, PEAK, RANKS, STEPS, TIMINGS, TRACE, Column
from vigmpi.record.previous_record import PreviousRecord, read_previous_record

_FLUSH_S = 2.0
_CHUNK_STEPS = 256
_SLACK_BYTES = 2**16

_AXES = {
    "rank": "rank in MPI_COMM_WORLD",
    "replica": "copy of the pipeline",
    "layer": "block, or the readout",
    "mini_batch": "in the order of the run",
}
_GROUPS: dict[str, tuple[tuple[Column, ...], list[str]]] = {
    "steps": (STEPS, ["mini_batch"]),
    "timings": (TIMINGS, ["mini_batch", "rank"]),
    "layers": (LAYERS, ["mini_batch", "replica", "layer"]),
}


@dataclass(frozen=True)
class Row:
    """What is recorded of a mini-batch.

    Attributes:
        step: a value for each of `STEPS`.
        timings: seconds, [ranks, len(TIMINGS)].
        layers: seconds, [replicas, len(LAYERS), layers].
        peak_rss_bytes: [ranks].
    """

    step: Mapping[str, Any]
    timings: np.ndarray
    layers: np.ndarray
    peak_rss_bytes: np.ndarray


class Recorder:
    """Writes the HDF5 file of a run, on one rank, while the run goes on.

    The file holds plain datasets only, with units and named axes. Rows are written in short
    bursts, each ended by the attribute `steps_done` and a flush, so that a killed run leaves
    a file that opens, and readers can cut at `steps_done`. SWMR and the newer file formats are
    left alone: a file that uses them cannot be opened after a kill.

    Args:
        attributes: groups of attributes by name; "" for those of the file itself.
        ranks: a value for each rank, [ranks], of each of `RANKS`.
        layers: names of the blocks and of the readout.
        resume_from: how many mini-batches the run had done at the checkpoint that it goes on
            from. What its record holds up to there is taken over into a new file, which then
            takes the old one's place.

    Raises:
        InputError: the file exists, cannot be written, or is not of the run that goes on.
        RankError: by any method, once the file takes no more. What was flushed stays readable if
            the file is then left alone; even Python's end would close it, and write.
    """

    def __init__(
        self,
        path: Path,
        attributes: Mapping[str, Mapping[str, Any]],
        ranks: Mapping[str, np.ndarray],
        layers: Sequence[str],
        *,
        overwrite: bool = False,
        resume_from: int = 0,
    ) -> None:
        self._size = len(next(iter(ranks.values())))
        replicas = int(max(ranks["replica"])) + 1
        axes = {
            "rank": np.arange(self._size, dtype=np.int32),
            "replica": np.arange(replicas, dtype=np.int32),
            "layer": np.array(layers, dtype="S"),
        }
        past = None
        if resume_from and path.exists():
            past = _past(path, attributes[""]["run"], resume_from, axes, overwrite=overwrite)
        new = path.with_name(f".{path.name}.new") if past else path
        self._path = path
        # Kept open: one that is dropped writes what it still holds, and h5py ignores errors then.
        self._growing: dict[str, h5py.Dataset] = {}
        self._file = _create(new, overwrite=overwrite or past is not None)
        for group, attrs in attributes.items():
            self._file.require_group(f"/{group}").attrs.update(attrs)
        self._make_axes(axes)
        for column in RANKS:
            self.add_ranks("ranks", column, ranks[column.name])
        self.add_ranks("ranks", PEAK, np.zeros(self._size, PEAK.dtype))
        self._peak = self._file[f"ranks/{PEAK.name}"]
        for group, (columns, names) in _GROUPS.items():
            for column in columns:
                self._make(group, column, names)
        self._rows: list[Row] = []
        self._spans: list[np.ndarray] = []
        self._flushed_at = 0.0
        self._next = resume_from
        self._trace_from_s = 0.0
        if past:
            self._take_over(past)
        if resume_from:
            before = past.attributes.get("resumed_at", []) if past else []
            self._file.attrs["resumed_at"] = [*before, resume_from]
        self.flush()
        new.rename(path)

    def add_ranks(self, group: str, column: Column, values: np.ndarray) -> None:
        """Write what is known of each rank once a run, [ranks]."""
        with self._room():
            dataset = self._file.create_dataset(f"{group}/{column.name}", data=values)
            self._describe(dataset, column, ["rank"])

    def begin_trace(self, kinds: Sequence[str], clocks: Mapping[str, np.ndarray]) -> None:
        """Make room for `add_spans`.

        Args:
            kinds: the names that spans give by number.
            clocks: a value for each rank of the `CLOCKS` that are known so far.
        """
        if "trace" not in self._file:
            self._make_trace(kinds)
        for column in CLOCKS:
            if column.name in clocks:
                self.add_ranks("trace", column, clocks[column.name])

    def add(self, row: Row) -> None:
        """Take a mini-batch's values."""
        self._rows.append(row)
        if time.monotonic() - self._flushed_at > _FLUSH_S:
            self.flush()

    def add_spans(self, spans: np.ndarray) -> None:
        """Take spans of time, [spans, len(TRACE)]."""
        later = [self._trace_from_s if column.unit == "s" else 0 for column in TRACE]
        self._spans.append(spans + later)

    def flush(self) -> None:
        rows = {
            name: sum(map(len, self._spans)) if name.startswith("trace/") else len(self._rows)
            for name in self._growing
        }
        with self._room(self._bytes_of_new_chunks(rows)):
            self._append()
            self._file.attrs["steps_done"] = len(self._file["mini_batch"])
            self._file.flush()
        self._next += len(self._rows)
        self._rows.clear()
        self._spans.clear()
        self._flushed_at = time.monotonic()

    def _append(self) -> None:
        if self._spans:
            for column, values in zip(TRACE, np.concatenate(self._spans).T, strict=True):
                self._write(f"trace/{column.name}", values)
        if self._rows:
            self._write("mini_batch", np.arange(self._next, self._next + len(self._rows)))
            for column in STEPS:
                self._write(f"steps/{column.name}", [row.step[column.name] for row in self._rows])
            for i, column in enumerate(TIMINGS):
                self._write(f"timings/{column.name}", [row.timings[:, i] for row in self._rows])
            for i, column in enumerate(LAYERS):
                self._write(f"layers/{column.name}", [row.layers[:, i] for row in self._rows])
            self._peak[:] = self._rows[-1].peak_rss_bytes

    @property
    def is_open(self) -> bool:
        return bool(self._file)

    def close(self, **attributes: Any) -> None:
        """Write what is left, and attributes that only the end of the run knows."""
        self.flush()
        with self._room():
            self._file.attrs.update(attributes)
            self._file.close()

    def _take_over(self, past: PreviousRecord) -> None:
        if past.kinds:
            self._make_trace(past.kinds)
        rows = {name: len(values) for name, values in past.rows.items()}
        with self._room(self._bytes_of_new_chunks(rows)):
            for name, values in past.rows.items():
                self._write(name, values)
        if len(ends := past.rows.get("trace/end_s", ())):
            self._trace_from_s = max(ends)
        self._file.attrs["started"] = past.attributes["started"]

    @contextmanager
    def _room(self, size_bytes: int = 0) -> Iterator[None]:
        """Have the disk set aside what is about to be written, before HDF5 begins.

        HDF5 goes on where a write found no room, and so may leave a file that does not open.

        Args:
            size_bytes: of new chunks; there is always some room for what describes them.
        """
        try:
            end = self._file.id.get_filesize() + size_bytes + _SLACK_BYTES
            os.posix_fallocate(self._file.id.get_vfd_handle(), 0, end)
            yield
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise RankError(
                f"the record {self._path} takes no more ({reason}); it is whole up to its "
                f"steps_done: make room, then type: --resume latest, with the same --output"
            ) from error

    def _bytes_of_new_chunks(self, rows: Mapping[str, int]) -> int:
        """Args: rows: to be appended, by dataset."""
        total = 0
        for name, more in rows.items():
            dataset = self._growing[name]
            done, whole = len(dataset), math.prod(dataset.chunks) * dataset.dtype.itemsize
            total += (-(-(done + more) // _CHUNK_STEPS) - -(-done // _CHUNK_STEPS)) * whole
        return total

    def _make_axes(self, axes: Mapping[str, np.ndarray]) -> None:
        growing = {"mini_batch": np.empty(0, np.int32)}
        for name, values in {**axes, **growing}.items():
            grows = {"maxshape": (None,), "chunks": (_CHUNK_STEPS,)} if name in growing else {}
            axis = self._file.create_dataset(name, data=values, **grows)
            axis.attrs.update(unit="1", description=_AXES[name])
            axis.make_scale(name)
            if name in growing:
                self._growing[name] = axis

    def _make_trace(self, kinds: Sequence[str]) -> None:
        for column in TRACE:
            self._make("trace", column, ["span"])
        self._file["trace"].attrs["kinds"] = list(kinds)

    def _make(self, group: str, column: Column, axes: Sequence[str]) -> None:
        fixed = [len(self._file[axis]) for axis in axes[1:]]
        dataset = self._file.create_dataset(
            f"{group}/{column.name}",
            (0, *fixed),
            column.dtype,
            maxshape=(None, *fixed),
            chunks=(_CHUNK_STEPS, *fixed),
        )
        self._describe(dataset, column, axes)
        self._growing[dataset.name.strip("/")] = dataset

    def _describe(self, dataset: h5py.Dataset, column: Column, axes: Sequence[str]) -> None:
        dataset.attrs.update(unit=column.unit, description=column.description)
        for dimension, axis in zip(dataset.dims, axes, strict=True):
            dimension.label = axis
            if axis in self._file:
                dimension.attach_scale(self._file[axis])

    def _write(self, name: str, values: Any) -> None:
        """Append."""
        dataset = self._growing[name]
        done = len(dataset)
        dataset.resize(done + len(values), axis=0)
        dataset[done:] = values


def _past(
    path: Path, run: str, mini_batches: int, axes: Mapping[str, np.ndarray], *, overwrite: bool
) -> PreviousRecord | None:
    try:
        return read_previous_record(path, run, mini_batches, axes)
    except InputError:
        if overwrite:
            return None
        raise


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
