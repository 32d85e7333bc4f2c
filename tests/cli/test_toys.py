"""A model, schedule, data set and timing column that vigmpi does not know are used like its own."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.launching import finish, mpiexec, start
from tests.two_in_flight import two_in_flight
from tests.weights import assert_equal_weights
from vigmpi.schedule.action import Kind
from vigmpi.schedule.program import make_programs

CHUNKS = 5
OPTIONS = (
    *("--model", "toy", "--dataset", "toy", "--blocks", "4", "--threads", "1", "--chunks", "5"),
    *(
        "--batch-size",
        "1000",
        "--steps",
        "1",
        "--test-steps",
        "1",
        "--seed",
        "3",
        "--progress",
        "off",
    ),
)
PROGRAMS = make_programs(two_in_flight, 2, CHUNKS)


def toys(folder: Path, command: str, *options: str, ranks: int = 2) -> str:
    program = [*mpiexec(ranks), sys.executable, "-m", "tests.toys", command]
    done = finish(start([*program, *options, "--data-dir", str(folder)]), 200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the record and the checkpoints of two epochs on two ranks."""
    folder = tmp_path_factory.mktemp("toys")
    record = ("--record", str(folder / "two.h5"))
    options = (*OPTIONS, "--stages", "2", "--schedule", "toy", "--trace")
    toys(folder, "train", *options, "--epochs", "2", *record)
    return folder


def test_a_run_resumed_on_another_split_equals_one_rank(folder: Path) -> None:
    """The second split gives the last stage no batch norm and a first layer without weights."""
    sequential = ("--record", str(folder / "one.h5"), "--epochs", "2")
    toys(folder, "train", *OPTIONS, *sequential, ranks=1)
    first = ("--stages", "2", "--schedule", "toy", "--record", str(folder / "resumed.h5"))
    toys(folder, "train", *OPTIONS, *first, "--epochs", "1")
    resumed = ("--resume", str(folder / "resumed.h5.checkpoints"), "--record", str(folder / "b.h5"))
    toys(folder, "train", *resumed, "--split-after", "block 1", "--epochs", "2", "--threads", "1")
    one = newest(folder / "one.h5.checkpoints")
    for name in ("two", "b"):
        assert_equal_weights(newest(folder / f"{name}.h5.checkpoints"), one)
        with h5py.File(folder / f"{name}.h5") as file, h5py.File(folder / "one.h5") as expected:
            losses = file["steps/loss"][:]
            np.testing.assert_array_equal(losses, expected["steps/loss"][-len(losses) :])
    with h5py.File(folder / "b.h5") as file:
        assert file["ranks/first_layer"][:].tolist() == [0, 3]
        assert file["ranks/num_blocks"][:].tolist() == [2, 2]


def newest(checkpoints: Path) -> Path:
    return max(checkpoints.glob("*/"))


def test_a_trained_model_is_evaluated_on_any_split(folder: Path) -> None:
    options = (
        "--checkpoint",
        str(folder / "two.h5.checkpoints"),
        "--threads",
        "1",
        "--chunks",
        "5",
    )
    one = toys(folder, "evaluate", *options, "--record", str(folder / "c.h5"), ranks=1)
    split = ("--stages", "2", "--split", "1,3", "--record", str(folder / "d.h5"))
    assert toys(folder, "evaluate", *options, *split).splitlines()[-1] == one.splitlines()[-1]


def test_the_record_has_the_new_timing_column(folder: Path) -> None:
    with h5py.File(folder / "two.h5") as file:
        column = file["timings/longest_forward_s"]
        assert column.attrs["description"] == "longest forward pass of a micro-batch"
        total = file["timings/forward_s"][:]
        assert (column[:] >= total / CHUNKS).all()
        assert (column[:] < total).all()
        names = [name.decode() for name in file["layer"][:]]
        blocks = [f"block {i}" for i in range(4)]
        assert names == ["stem", *blocks[:2], "downsampling", *blocks[2:], "head"]


def test_the_trace_has_every_action_of_the_schedule_in_order(folder: Path) -> None:
    with h5py.File(folder / "two.h5") as file:
        trace = {name: file["trace"][name][:] for name in ("mini_batch", "rank", "kind")}
        numbers, kinds = file["trace/micro_batch"][:], file["trace"].attrs["kinds"].astype(str)
        for rank, program in enumerate(PROGRAMS):
            chosen = (trace["mini_batch"] == 0) & (trace["rank"] == rank)
            spans = list(zip(kinds[trace["kind"][chosen]], numbers[chosen], strict=True))
            actions = [span for span in spans if span[0] in set(Kind)]
            assert actions == [(action.kind, action.micro_batch) for action in program]
            rest = {"data", "agreement", "statistics", "optimizer", "last sends", "step"}
            assert sorted(kind for kind, _ in spans if kind not in set(Kind)) == sorted(rest)


def test_the_ledger_has_the_idle_time_that_the_schedule_requires(folder: Path) -> None:
    with h5py.File(folder / "two.h5") as file:
        steps = (file["steps/phase"][:] == 0) & (file["steps/warm_up"][:] == 0)
        timings = [file[f"timings/{name}"][:][steps] for name in ("forward_s", "backward_s")]
        bubble = file["ledger/train/bubble_s"][:]
    expected = [_least_time(f, b) - max(f + b) for f, b in zip(*timings, strict=True)]
    np.testing.assert_allclose(bubble, np.mean(expected), rtol=1e-9)
    assert (bubble > 0).all()


def _least_time(forward: np.ndarray, backward: np.ndarray) -> float:
    """Return the end of the last action of two stages that alternate, each after its input."""
    f, b = forward / CHUNKS, backward / CHUNKS
    first = last = 0.0
    arrived = [0.0] * CHUNKS
    for i in range(2):
        first = arrived[i] = first + f[0]
    for i in range(CHUNKS):
        last = max(last, arrived[i]) + f[1] + b[1]
        first = max(first, last) + b[0]
        if i + 2 < CHUNKS:
            first = arrived[i + 2] = first + f[0]
    return first


def test_the_memory_forecast_is_within_15_percent_of_what_the_run_adds(folder: Path) -> None:
    with h5py.File(folder / "two.h5") as file:
        ranks = {name: values[:] for name, values in file["ranks"].items()}
    for pid, forecast, peak in zip(
        ranks["pid"], ranks["forecast_rss_bytes"], ranks["peak_rss_bytes"], strict=True
    ):
        before = int((folder / f"{pid}.rss").read_text())
        print(f"forecast {forecast - before}, added {peak - before}")
        assert abs(forecast - peak) < 0.15 * (peak - before)
