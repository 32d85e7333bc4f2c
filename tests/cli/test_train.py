"""Runs as a user starts them, at the study's model size with few images."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.launching import ROOT, finish, start, steps_done, vigmpi, wait_until
from tests.weights import assert_equal_weights
from vigmpi.checkpoint import manifest

TIMINGS = ["data_s", "forward_s", "backward_s", "receive_wait_s", "send_wait_s"]
TIMINGS += ["gradient_sum_s", "agreement_s", "statistics_s", "optimizer_s"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The README's command, shortened: its record, standard output and standard error."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    layout = ["--stages", "2", "--replicas", "2", "--chunks", "5"]
    length = ["--batch-size", "100", "--steps", "3", "--test-steps", "2", "--epochs", "1"]
    command = vigmpi(*layout, *length, "--dataset", "digits", "--record", str(path), ranks=4)
    done = finish(start(command), timeout=200)
    assert done.returncode == 0, done.stderr
    return path, done.stdout, done.stderr


def test_the_terminal_says_what_runs_and_ends_with_a_table(run: tuple[Path, str, str]) -> None:
    path, out, err = run
    first, *_ = err.splitlines()
    assert first.startswith("data: digits (scikit-learn's handwritten digits")
    assert "layout: 2 stages (blocks 4|4) x 2 replicas; mini-batches of 100 images" in err
    assert "memory: forecast " in err
    assert "train 1/1  step 1/3  loss " in err
    assert "test  1/1  done: loss " in err
    lines = out.splitlines()
    assert lines[0].startswith("train: % of a mini-batch's ")
    assert [line.split()[0] for line in lines[1:4]] == ["stage", "0", "1"]
    head = next(i for i, line in enumerate(lines) if line.startswith("phase "))
    assert lines[head + 1].split()[:2] == ["train", "2"]
    assert lines[head + 2].split()[:2] == ["test", "1"]
    assert "peak memory: " in out
    assert lines[-1] == f"record: {path}"


def test_the_record_explains_itself(run: tuple[Path, str, str]) -> None:
    with h5py.File(run[0]) as file:
        assert file.attrs["steps_done"] == 5
        assert file.attrs["dataset"].startswith("digits")
        assert file.attrs["replicas_bit_equal"]
        settings = dict(file["configuration"].attrs)
        assert (settings["stages"], settings["replicas"], settings["chunks"]) == (2, 2, 5)
        assert settings["split"].tolist() == [4, 4]
        assert settings["lr"] == 1e-4
        assert {"torch", "torch-geometric", "mpi4py", "mpi"} <= set(file["versions"].attrs)
        ranks = {name: values[:] for name, values in file["ranks"].items()}
    assert ranks["replica"].tolist() == [0, 0, 1, 1]
    assert ranks["stage"].tolist() == [0, 1, 0, 1]
    assert ranks["first_block"].tolist() == [0, 4, 0, 4]
    assert ranks["num_blocks"].tolist() == [4] * 4
    assert ranks["threads"].tolist() == [1] * 4
    assert set(ranks["host"]) == {os.uname().nodename.encode()}


def test_every_dataset_has_a_unit_a_meaning_and_named_axes(run: tuple[Path, str, str]) -> None:
    found = []

    def look(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(name)
            assert item.attrs["unit"]
            assert item.attrs["description"]
            assert item.is_scale or all(len(dimension) == 1 for dimension in item.dims), name

    with h5py.File(run[0]) as file:
        file.visititems(look)
    assert len(found) > 25


def test_the_record_holds_every_step_of_every_rank(run: tuple[Path, str, str]) -> None:
    with h5py.File(run[0]) as file:
        steps = {name: values[:] for name, values in file["steps"].items()}
        timings = {name: values[:] for name, values in file["timings"].items()}
    assert steps["phase"].tolist() == [0, 0, 0, 1, 1]
    assert steps["step"].tolist() == [0, 1, 2, 0, 1]
    assert steps["epoch"].tolist() == [0] * 5
    assert steps["num_images"].tolist() == [200, 200, 200, 200, 97]
    assert steps["warm_up"].tolist() == [1, 0, 0, 1, 0]
    assert np.isfinite(steps["loss"]).all()
    assert set(np.round(steps["accuracy"] * steps["num_images"], 9)) <= set(range(201))
    whole = timings.pop("step_s")
    assert sorted(timings) == sorted(TIMINGS)
    parts = sum(timings.values())
    assert (parts <= whole).all()
    assert (parts > 0.9 * whole).all()  # little is left unexplained
    assert (parts.sum(0) > 0.95 * whole.sum(0)).all()
    assert (timings["backward_s"][:3] > 0).all()
    assert not timings["backward_s"][3:].any()
    assert (timings["data_s"][:, [0, 2]] > 0).all()
    assert (timings["receive_wait_s"][:, [1, 3]] > timings["data_s"][:, [1, 3]]).all()


def test_the_readme_reads_a_record_in_three_lines(run: tuple[Path, str, str]) -> None:
    text = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(re.sub(r'"vigmpi-.*?"', repr(str(run[0])), code), names)  # noqa: S102
    assert names["steps"]["images"].tolist() == [200, 200, 200, 200, 97]
    assert names["forward"].shape == (5, 4)
    for group in ("steps", "timings", "ranks", "configuration", "versions"):
        assert f"`{group}`" in text


def test_the_forecast_is_near_the_peak_of_the_run(run: tuple[Path, str, str]) -> None:
    with h5py.File(run[0]) as file:
        forecast = file["ranks/forecast_rss_bytes"][:]
        peak = file["ranks/peak_rss_bytes"][:]
    assert (forecast > 0.9 * peak).all(), (forecast, peak)
    assert (forecast < 1.15 * peak).all(), (forecast, peak)


def test_one_rank_on_two_cores_has_the_bits_of_two_stages(tmp_path: Path) -> None:
    """Nor does it need a launcher."""
    losses, checkpoints = [], []
    for ranks, stages, threads in [(None, "1", "2"), (2, "2", "1")]:
        path = tmp_path / f"{stages}.h5"
        flags = ["--stages", stages, "--threads", threads, "--batch-size", "40", "--chunks", "2"]
        more = ["--epochs", "1", "--steps", "3", "--test-steps", "1", "--dataset", "synthetic"]
        done = finish(start(vigmpi(*flags, *more, "--record", str(path), ranks=ranks)), 100)
        assert done.returncode == 0, done.stderr
        with h5py.File(path) as file:
            losses.append(file["steps/loss"][:].tolist())
        checkpoints.append(path.with_suffix(manifest.SUFFIX) / "mini-batch-00000004")
    assert losses[0] == losses[1]
    assert_equal_weights(*checkpoints)


def test_a_killed_run_leaves_its_steps(tmp_path: Path) -> None:
    """Read while it goes on, and after a kill -9 of all its ranks."""
    path = tmp_path / "run.h5"
    flags = ["--batch-size", "2", "--blocks", "1", "--record", str(path)]
    process = start(vigmpi("--stages", "1", "--replicas", "2", *flags, ranks=2))

    wait_until(lambda: steps_done(path) >= 20)
    seen = steps_done(path)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    with h5py.File(path) as file:
        done = file.attrs["steps_done"]
        assert done >= seen
        assert file["steps/step"][:done].tolist() == list(range(done))
        assert (file["timings/step_s"][:done] > 0).all()
