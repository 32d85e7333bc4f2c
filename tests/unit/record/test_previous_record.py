from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.unit.record.test_recorder import LAYER_NAMES, LAYOUT, RANK_VALUES, add
from vigmpi.errors import InputError
from vigmpi.hdf5_strings import fixed_string, read_string
from vigmpi.record.columns import FORMAT, TRACE
from vigmpi.record.previous_record import read_previous_record
from vigmpi.record.recorder import Recorder

AXES = {
    "rank": np.array([0, 1]),
    "replica": np.array([0, 1]),
    "layer": np.array(LAYER_NAMES, dtype="S"),
}
PLACES = {name: RANK_VALUES[name] for name in ("stage", "part")}


def make(path: Path, run: str = "7", *, resume_from: int = 0, overwrite: bool = False) -> Recorder:
    attributes: dict[str, dict[str, Any]] = {"": {"run": run, "started": "today"}}
    return Recorder(
        path,
        attributes,
        LAYOUT,
        RANK_VALUES,
        LAYER_NAMES,
        resume_from=resume_from,
        overwrite=overwrite,
    )


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Return the record of 300 mini-batches, each with one span of a second."""
    path = tmp_path / "a.h5"
    recorder = make(path)
    recorder.begin_trace(["F"], {})
    for number in range(300):
        add(recorder, number)
        recorder.add_spans(span(number, start=number))
    recorder.close()
    return path


def span(mini_batch: int, start: float) -> np.ndarray:
    return np.array([[mini_batch, 0, 0, -1, start, start + 1]])


def test_a_resumed_run_continues_its_record_after_the_checkpoint(record: Path) -> None:
    recorder = make(record, resume_from=270)
    recorder.begin_trace(["F"], {})
    for number in range(270, 280):
        add(recorder, number)
        recorder.add_spans(span(number, start=number - 270))  # its clock restarts at 0
    recorder.close()
    with h5py.File(record) as file:
        assert file.attrs["resumed_at"].tolist() == [270]
        assert file.attrs["steps_done"] == 280
        assert file["mini_batch"][:].tolist() == list(range(280))
        for group in ("steps", "timings", "layers"):
            for values in file[group].values():
                assert (values[:].T == np.arange(280) % 200).all()
        assert len(file["trace/mini_batch"]) == 280
        assert {len(file["trace"][column.name]) for column in TRACE} == {280}
        assert file["trace/start_s"][:].tolist() == list(range(280))
    assert not list(record.parent.glob(".*"))


def test_a_record_without_the_columns_of_later_versions_is_continued(record: Path) -> None:
    with h5py.File(record, "a") as file:
        del file["steps/raw_loss"], file["steps/raw_accuracy"], file["timings/parts_s"]
    recorder = make(record, resume_from=270)
    add(recorder, 270)
    recorder.close()
    with h5py.File(record) as file:
        for name in ("raw_loss", "raw_accuracy"):
            values = file["steps"][name][:]
            assert np.isnan(values[:270]).all()
            assert values[270] == 270 % 200
        assert file["steps/loss"][:].tolist() == [number % 200 for number in range(271)]


def test_rows_missing_before_the_checkpoint_are_not_invented(record: Path) -> None:
    recorder = make(record, resume_from=310)
    add(recorder, 310)
    recorder.close()
    with h5py.File(record) as file:
        assert file["mini_batch"][:].tolist() == [*range(300), 310]


def test_a_record_of_another_run_or_layout_is_refused_and_kept(record: Path) -> None:
    before = record.read_bytes()
    with pytest.raises(InputError, match=r"another run: .*a\.h5\. Use --record FILE .*\.$"):
        make(record, run="8", resume_from=270)
    with pytest.raises(InputError, match=r"another layout: .*a\.h5\. Use --record FILE .*\.$"):
        read_previous_record(record, "7", 270, AXES | {"rank": np.array([0])}, PLACES)
    with pytest.raises(InputError, match="record has another layout"):
        read_previous_record(record, "7", 270, AXES, PLACES | {"part": np.array([5, 6])})
    assert record.read_bytes() == before


@pytest.mark.parametrize(
    "version",
    [
        "vigmpi record 1",
        *map(fixed_string, ("vigmpi record 0", "none\n", "")),
        1,
        np.arange(2),
        None,
    ],
)
def test_a_record_of_another_format_is_refused_and_kept(record: Path, version: Any) -> None:
    with h5py.File(record, "r+") as file:
        del file.attrs["format"]
        if version is not None:
            file.attrs["format"] = version
    before = record.read_bytes()
    with pytest.raises(InputError, match=r"a\.h5.*Use --record FILE .* --overwrite .*\.$") as error:
        make(record, resume_from=270)
    assert "\n" not in str(error.value)
    assert record.read_bytes() == before
    make(record, resume_from=270, overwrite=True).close()
    with h5py.File(record) as file:
        assert read_string(file.attrs, "format") == FORMAT


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        (fixed_string("vigmpi record 2"), "vigmpi record 2"),
        ("vigmpi record 1", "no version"),  # on the heap, where reading may not end
        (None, "no version"),
    ],
)
def test_a_refused_format_is_named_beside_the_supported_one(
    record: Path, version: Any, shown: str
) -> None:
    with h5py.File(record, "r+") as file:
        del file.attrs["format"]
        if version is not None:
            file.attrs["format"] = version
    with pytest.raises(InputError) as error:
        read_previous_record(record, "7", 270, AXES, PLACES)
    assert str(error.value) == (
        f'unsupported record format: {record} has "{shown}", this version reads '
        f'"vigmpi record 1". Use --record FILE to start a new record, or --overwrite to replace it.'
    )


@pytest.mark.parametrize("seed", range(24))
def test_a_damaged_record_is_refused_or_read_consistently(record: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    content = bytearray(record.read_bytes())
    if seed % 4 == 0:
        del content[random.integers(len(content)) :]
    for at in random.integers(min(len(content), 20_000), size=seed % 4 * 3):
        content[at] ^= 1 << random.integers(8)
    record.write_bytes(content)
    try:
        previous = read_previous_record(record, "7", 270, AXES, PLACES)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert len(previous.rows["mini_batch"]) <= 300
