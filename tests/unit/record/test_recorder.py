import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vigmpi.errors import InputError
from vigmpi.hdf5_strings import read_string
from vigmpi.layout.layout import Layout
from vigmpi.phase import Phase
from vigmpi.record import recorder as module
from vigmpi.record.columns import FORMAT, LAYERS, RANKS, STEPS, TRACE
from vigmpi.record.recorder import Recorder
from vigmpi.record.step_record import Row, StepRecord, rank_dtype
from vigmpi.record.timings import timing_columns

LAYOUT = Layout(stages=1, replicas=2, chunks=1)
LAYER_NAMES = ["block 0", "block 1", "head"]
RANK_VALUES = {c.name: np.array([0, 1]) for c in RANKS} | {"host": np.array([b"a", b"bc"])}


def make(path: Path, *, overwrite: bool = False, **options: Any) -> Recorder:
    run = {"run": "7", "started": "today"}
    attributes: dict[str, dict[str, Any]] = {"": run, "configuration": {"lr": 0.1}}
    return Recorder(
        path, attributes, LAYOUT, RANK_VALUES, LAYER_NAMES, overwrite=overwrite, **options
    )


class Constant(StepRecord):
    """Numbers of a mini-batch that all equal its epoch."""

    def as_row(self, *, warm_up: bool) -> dict[str, Any]:  # noqa: ARG002
        return {column.name: self.epoch for column in STEPS}


def row(number: int) -> Row:
    value = number % 200  # the phase is one byte
    ranks = np.zeros(2, rank_dtype(len(LAYER_NAMES)))
    ranks.view(np.float64)[:] = value
    ranks["peak_rss_bytes"] = number, 10 * number
    return Row(number, Constant(Phase.TRAIN, value, value, value, ranks), [0, 1], warm_up=False)


def add(recorder: Recorder, number: int) -> None:
    recorder.add(row(number))


def test_rows_are_read_back_with_units_axes_and_attributes(tmp_path: Path) -> None:
    recorder = make(tmp_path / "a.h5")
    for number in range(600):  # more than a chunk
        add(recorder, number)
    recorder.close(replicas_bit_equal=True)
    with h5py.File(tmp_path / "a.h5") as file:
        assert read_string(file.attrs, "format") == FORMAT
        assert file.attrs["steps_done"] == 600
        assert file.attrs["replicas_bit_equal"]
        assert file["configuration"].attrs["lr"] == 0.1
        assert file["ranks/host"][:].tolist() == [b"a", b"bc"]
        assert file["ranks/peak_rss_bytes"][:].tolist() == [599, 5990]
        axes_of = {
            "steps": ["/mini_batch"],
            "timings": ["/mini_batch", "/rank"],
            "layers": ["/mini_batch", "/replica", "/layer"],
        }
        groups = {"steps": STEPS, "timings": timing_columns(), "layers": LAYERS}
        for group, column in [(g, c) for g, columns in groups.items() for c in columns]:
            dataset = file[group][column.name]
            assert (dataset[:].T == np.arange(600) % 200).all()
            assert dataset.attrs["unit"] == column.unit
            assert dataset.attrs["description"] == column.description
            axes = [dimension[0].name for dimension in dataset.dims]
            assert axes == axes_of[group]
        assert file["mini_batch"][:].tolist() == list(range(600))


def test_spans_are_read_back_in_the_order_in_which_they_were_added(tmp_path: Path) -> None:
    recorder = make(tmp_path / "a.h5")
    recorder.begin_trace(["F", "B"], {"clock_offset_s": np.array([0.0, 0.5])})
    spans = np.arange(20 * len(TRACE), dtype=float).reshape(20, -1) % 200
    recorder.add_spans(spans[:5])
    recorder.flush()
    recorder.add_spans(spans[5:6])
    recorder.add_spans(spans[6:])
    recorder.close()
    with h5py.File(tmp_path / "a.h5") as file:
        for column, values in zip(TRACE, spans.T, strict=True):
            assert (file["trace"][column.name][:] == values).all()
            assert file["trace"][column.name].attrs["unit"] == column.unit
        assert file["trace"].attrs["kinds"].tolist() == [b"F", b"B"]
        assert file["trace/clock_offset_s"][:].tolist() == [0.0, 0.5]


def test_flushed_rows_can_be_read_during_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FLUSH_S", 0.0)
    recorder = make(tmp_path / "a.h5")
    for number in range(3):
        add(recorder, number)
        with h5py.File(tmp_path / "a.h5", locking=False) as file:
            assert file.attrs["steps_done"] == number + 1
            assert file["steps/loss"][:].tolist() == list(range(number + 1))


def test_an_existing_record_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(path).close(mark=1)
    with pytest.raises(InputError, match=r"record already exists: .*a\.h5\. Use --overwrite .*\.$"):
        make(path)
    with h5py.File(path) as file:
        assert file.attrs["mark"] == 1
    make(path, overwrite=True).close()
    with h5py.File(path) as file:
        assert "mark" not in file.attrs


@pytest.mark.parametrize("path", ["nowhere/a.h5", "."])
def test_a_path_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match=r"cannot write .*: .*\. Use --record FILE .*\.$") as error:
        make(tmp_path / path, overwrite=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("flushed", "kept_from"), [(3, 3), (3, 1), (0, 0), (5, 4), (6, 2)])
def test_a_survivor_writes_the_rows_that_the_record_lacks(
    tmp_path: Path, flushed: int, kept_from: int
) -> None:
    """Five mini-batches are committed, a sixth is repeated."""
    path = tmp_path / "a.h5"
    recorder = make(path)
    for number in range(flushed):
        add(recorder, number)
    recorder.flush()
    os.link(path, tmp_path / "b.h5")  # closing the file of the lost rank must not matter
    recorder._file.id.close()
    unwritten = [row(number) for number in range(kept_from, 6)]
    survivor = make(path, overwrite=True, resume_from=5, unwritten=unwritten)
    add(survivor, 5)
    survivor.close()
    with h5py.File(path) as file:
        assert file["mini_batch"][:].tolist() == list(range(6))
        assert file["steps/loss"][:].tolist() == list(range(6))
        assert file["timings/step_s"][:, 1].tolist() == list(range(6))


def test_space_is_reserved_behind_the_end_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system cannot reserve space, every block of the range is written."""
    ranges = []
    monkeypatch.setattr(os, "posix_fallocate", lambda _, start, size: ranges.append((start, size)))
    recorder = make(tmp_path / "a.h5")
    for number in range(2000):
        add(recorder, number)
        if number % 100 == 0:
            recorder.flush()
    recorder.close()
    assert ranges[-1][0] > 2**18
    assert max(size for _, size in ranges) < 2**18


def test_lost_ranks_are_recorded_as_nan(tmp_path: Path) -> None:
    recorder = make(tmp_path / "a.h5")
    ranks = np.ones(1, rank_dtype(len(LAYER_NAMES)))
    recorder.add(Row(0, StepRecord(Phase.TEST, 0, 0, 4, ranks), [1], warm_up=True))
    recorder.close()
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["timings/step_s"][:], [[np.nan, 1]])
        np.testing.assert_array_equal(file["layers/forward_s"][0], [[np.nan] * 3, [1] * 3])
        assert file["steps/loss"][:] == [1]
        assert file["steps/accuracy"][:] == [0.25]
