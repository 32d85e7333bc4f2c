"""Tables, figures and a trace file of traced runs, made with the scripts as a user runs them."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from analysis.read import read
from tests.launching import finish, start, vigmpi

RUN = ["--chunks", "4", "--dataset", "digits", "--batch-size", "20", "--epochs", "1"]
STEPS = ["--steps", "3", "--test-steps", "2", "--trace", "--progress", "off"]
LAYOUTS = {"sequential": (1, 1), "pipeline": (2, 2)}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("records")
    paths = {}
    for name, (stages, replicas) in LAYOUTS.items():
        paths[name] = folder / f"{name}.h5"
        layout = ["--stages", str(stages), "--replicas", str(replicas)]
        command = vigmpi(
            *layout, *RUN, *STEPS, "--record", str(paths[name]), ranks=stages * replicas
        )
        done = finish(start(command), 200)
        assert done.returncode == 0, done.stderr
        assert "least time of the schedule" in done.stdout
    return paths


def analyse(*arguments: str | Path) -> str:
    done = finish(start([sys.executable, "-m", *map(str, arguments)]), 100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trace_contains_every_action_of_every_rank(records: dict[str, Path]) -> None:
    record = read(records["pipeline"])
    trace = record.trace
    for mini_batch, phase in enumerate(record.steps.phase):
        train = phase == "train"
        for rank, stage in enumerate([0, 1, 0, 1]):
            spans = trace[(trace.mini_batch == mini_batch) & (trace["rank"] == rank)]
            expected = {"F", "sF" if stage == 0 else "rF"}
            if train:
                expected |= {"B", "rB" if stage == 0 else "sB"}
            actions = spans[spans.micro_batch >= 0]
            assert set(actions.kind) == expected
            for kind in expected:
                numbers = actions[actions.kind == kind].micro_batch.tolist()
                assert numbers == [0, 1, 2, 3]
    assert (trace.end_s >= trace.start_s).all()
    assert trace.start_s.min() == 0
    # On the common clock, no receive ends before its send starts.
    sent = trace[trace.kind == "sF"].set_index(["mini_batch", "replica", "micro_batch"])
    received = trace[trace.kind == "rF"].set_index(["mini_batch", "replica", "micro_batch"])
    assert (received.end_s - sent.start_s > -1e-3).all()
    with h5py.File(records["pipeline"]) as file:
        assert (file["trace/clock_error_s"][:] < 1e-2).all()
        assert (abs(file["trace/clock_drift_s"][:]) < 1e-2).all()


def test_the_record_contains_the_ledger_of_each_phase(records: dict[str, Path]) -> None:
    with h5py.File(records["pipeline"]) as file:
        slowest = file["timings/step_s"][:].max(axis=1)
        keep = file["steps/warm_up"][:] == 0
        for phase, number in (("train", 0), ("test", 1)):
            columns = file[f"ledger/{phase}"]
            mean = slowest[keep & (file["steps/phase"][:] == number)].mean()
            np.testing.assert_allclose(sum(c[:] for c in columns.values()), mean)
            assert all(c.attrs["description"] for c in columns.values())
            # The mini-batches are short here, and ranks may have to wait for a core.
            assert np.median(columns["other_s"]) < (0.02 if phase == "train" else 0.1) * mean


def test_layer_times_add_up_to_the_stage_times(records: dict[str, Path]) -> None:
    with h5py.File(records["pipeline"]) as file:
        layers = file["layers/forward_s"][:] + file["layers/backward_s"][:]
        ranks = file["timings/forward_s"][:] + file["timings/backward_s"][:]
        names = file["layer"][:].tolist()
    assert names == [*(b"block %d" % i for i in range(8)), b"head"]
    assert (layers > 0).all()
    replicas = ranks.reshape(len(ranks), 2, 2).sum(axis=2)
    assert (layers.sum(axis=2) < replicas).all()
    assert np.median(layers.sum(axis=2) / replicas) > 0.9


def test_tables_show_measured_and_published_times(records: dict[str, Path]) -> None:
    text = analyse("analysis.tables", *records.values())
    assert "| sequential | train | 2 |" in text
    assert "| 37.44 |" in text
    assert "| sequential | block | train |" in text
    assert "| 1.95 |" in text
    assert "| sequential | head | train |" in text
    assert "| 0.011 |" in text
    assert "| 2 stages (4\\|4) x 2, 4 chunks | train |" in text
    assert "95 % interval" in text
    text = analyse("analysis.corrections", *records.values())
    assert "| 5 | train | mean | 19.02 | 28.53 | 28.12 | 12.68 |" in text


@pytest.mark.slow
def test_figures_and_a_trace_file_are_written(records: dict[str, Path], tmp_path: Path) -> None:
    analyse("analysis.figures", *records.values(), "--output", tmp_path)
    names = ["learning", "step-times", "scaling", "pipeline-pipeline", "pipeline-ranks"]
    for name in names:
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        assert (tmp_path / f"{name}.svg").read_text().startswith("<?xml")
    analyse("analysis.trace", records["pipeline"], tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}
    assert sum(event["ph"] == "X" for event in events) == len(read(records["pipeline"]).trace)
